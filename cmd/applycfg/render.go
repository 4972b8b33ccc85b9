package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/schema"
)

// renderedFile is one file that a machine would get.
type renderedFile struct {
	Path string `json:"path"`
	Mode string `json:"mode,omitempty"` // octal; empty: the existing file's, else 0644
	Text string `json:"text"`
	None bool   `json:"none,omitempty"` // there is to be no such file
}

func renderCommand() *command.Command {
	var t treeFlags
	var host, hosts, output string
	var secrets, strict bool
	return &command.Command{
		Name:  "render",
		Short: "show the files that a machine would get",
		Long: "The machine's metadata are those of --metadata, and over them HOST.json of the directory --hosts. Every file is\n" +
			"printed with its path, or written below --output, exactly as on the machine but for owners; printed without\n" +
			"--json, blanks stand for what is not printable. Values of secrets, and what an executable template makes of\n" +
			"metadata with any, are printed only with --show-secrets; --output writes them. Defaults of the schema count,\n" +
			"and it is checked.",
		Example: "applycfg render -t templates/redis --host web1 --hosts hosts -m common.json",
		Flags: func(fs *flag.FlagSet) {
			t.flags(fs)
			fs.StringVar(&host, "host", "", "`name` of the machine")
			fs.StringVar(&hosts, "hosts", "hosts", "`directory` with NAME.json of each machine")
			fs.StringVar(&output, "output", "", "write the files below this `directory` instead, which must be there")
			fs.StringVar(&output, "o", "", "short for --output")
			fs.BoolVar(&secrets, "show-secrets", false, "print values of secrets")
			fs.BoolVar(&strict, "strict", false, "a key that is not in the metadata is an error")
		},
		Run: func(ctx context.Context, io command.IO, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			switch {
			case output != "" && t.json:
				return apart("json", "output")
			case output != "" && secrets:
				return apart("show-secrets", "output")
			}
			file, err := hostFile(hosts, host)
			if err != nil {
				return err
			}
			s, parsed, err := t.load()
			if err != nil {
				return err
			}
			doc, err := applycfg.Sources{Files: append(t.metadata, file)}.LoadContext(ctx)
			if err != nil {
				return err
			}
			doc = s.WithDefaults(doc)
			if err := schema.AsError(s.Wrong(parsed, doc)); err != nil {
				return err
			}
			tree := applycfg.Templates{Dir: t.templates, Strict: strict, Elsewhere: true,
				Secret: s.Secrets("")}
			rendered, err := tree.Render(ctx, doc)
			if err != nil {
				return err
			}
			if output != "" {
				return writeRendered(ctx, io, output, rendered)
			}
			return printRendered(io, rendered, secrets, t.json)
		},
	}
}

func writeRendered(ctx context.Context, io command.IO, dir string, rendered []applycfg.File) error {
	changes, err := applycfg.Output{Dir: dir}.Apply(ctx, rendered)
	if err != nil {
		return err
	}
	for _, c := range changes {
		fmt.Fprintf(io.Stderr, "applycfg: %s %s\n", c.Action, command.Plain(c.Path))
	}
	return nil
}

func printRendered(io command.IO, rendered []applycfg.File, secrets, asJSON bool) error {
	list := []renderedFile{}
	for i := range rendered {
		f := &rendered[i]
		r := renderedFile{Path: "/" + f.Path, Text: f.Shown(), None: f.Absent()}
		if secrets {
			r.Text = string(f.Body)
		}
		if f.Control.Mode != 0 {
			r.Mode = fmt.Sprintf("%04o", f.Control.Mode)
		}
		list = append(list, r)
	}
	if asJSON {
		return json.NewEncoder(io.Stdout).Encode(list)
	}
	for _, r := range list {
		if r.None {
			fmt.Fprintf(io.Stdout, "==> %s: none\n", command.Plain(r.Path))
			continue
		}
		fmt.Fprintf(io.Stdout, "==> %s", command.Plain(r.Path))
		if r.Mode != "" {
			fmt.Fprintf(io.Stdout, " (mode %s)", r.Mode)
		}
		fmt.Fprintf(io.Stdout, "\n%s", plain(r.Text))
		if r.Text != "" && !strings.HasSuffix(r.Text, "\n") {
			fmt.Fprintln(io.Stdout)
		}
	}
	return nil
}
