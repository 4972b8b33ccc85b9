package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/refreshcfg"
	"goldsmith/internal/schema"
)

// planFlags are the flags of 'refreshcfg plan'.
type planFlags struct {
	state, list, templates string
	json                   bool
}

func planCommand() *command.Command {
	var f planFlags
	return &command.Command{
		Name:  "plan",
		Short: "say which hooks would run, in which order, and why",
		Long: "Nothing is run, but for templates: files that applycfg would change count as changed. Executable templates\n" +
			"are run to know that. For each hook it says what it waits for, whether others may run beside it, and why it\n" +
			"would run or would be passed over.",
		Example: "refreshcfg plan --json",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&f.state, "state", refreshcfg.DefaultState, "`directory` for what is remembered between runs")
			fs.StringVar(&f.list, "os-config-files", "", "JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
			fs.StringVar(&f.templates, "templates", os.Getenv("OS_CONFIG_APPLIER_TEMPLATES"), "applycfg's `directory` of templates; empty means "+applycfg.DefaultTemplates)
			fs.BoolVar(&f.json, "json", false, "print the plan as JSON")
		},
		Run: f.run,
	}
}

func checkCommand() *command.Command {
	return &command.Command{
		Name:    "check",
		Short:   "read the hooks and what they say of themselves, run nothing",
		Long:    "A header that is wrong, and hooks that wait for each other, are errors (status 2). Builds of images run it.",
		Example: "OS_REFRESH_CONFIG_BASE_DIR=elements/redis/os-refresh-config refreshcfg check",
		Run: func(_ context.Context, _ command.IO, words []string) error {
			if len(words) > 0 {
				return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "the directory is $OS_REFRESH_CONFIG_BASE_DIR")
			}
			return refreshcfg.Config{Base: baseDir()}.Check()
		},
	}
}

func (f *planFlags) run(ctx context.Context, io command.IO, words []string) error {
	if len(words) > 0 {
		return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "see 'refreshcfg plan --help'")
	}
	sources := applycfg.FromEnvironment(nil, f.list)
	doc, err := sources.LoadContext(ctx)
	if err != nil {
		return err
	}
	coming, err := f.coming(ctx, doc)
	if err != nil {
		return err
	}
	c := refreshcfg.Config{Base: baseDir(), State: f.state, Image: refreshcfg.Running()}
	c.Metadata = func(context.Context) (*metadata.Object, error) { return doc, nil }
	p, err := c.Plan(ctx, coming)
	if err != nil {
		return err
	}
	if f.json {
		e := json.NewEncoder(io.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(p)
	}
	return printPlan(io, p)
}

// coming are the files that applycfg would change.
func (f *planFlags) coming(ctx context.Context, doc *metadata.Object) ([]string, error) {
	templates := f.templates
	if templates == "" {
		templates = applycfg.DefaultTemplates
		if _, err := os.Stat(templates); os.IsNotExist(err) {
			return nil, nil
		}
	}
	rules, err := schema.Read(schema.Dir(templates))
	if err != nil {
		return nil, err
	}
	doc = rules.WithDefaults(doc)
	if err := rules.Refuse(templates, doc); err != nil {
		return nil, err
	}
	files, err := applycfg.Templates{Dir: templates, Secret: rules.Secrets("")}.Render(ctx, doc)
	if err != nil {
		return nil, err
	}
	changes, err := applycfg.Output{DryRun: true}.Apply(ctx, files)
	var paths []string
	for _, c := range changes {
		if c.Action != applycfg.Unchanged {
			paths = append(paths, c.Path)
		}
	}
	return paths, err
}

func printPlan(io command.IO, p refreshcfg.Plan) error {
	var table bytes.Buffer
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	row := func(cells ...string) {
		for i := range cells {
			cells[i] = command.Line(cells[i])
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	row("image", p.Image.String())
	for _, m := range p.Back {
		row("back", m.Phase+"/"+m.Name, strings.Join(m.Paths, " "))
	}
	for _, m := range p.Stay {
		row("stay", m.Phase+"/"+m.Name, strings.Join(m.Paths, " ")+" (no copies)")
	}
	for _, ph := range p.Phases {
		for _, h := range ph.Hooks {
			what := "run"
			if !h.Run {
				what = "pass"
			}
			after := ""
			if len(h.After) > 0 {
				after = "after " + strings.Join(h.After, ", ")
			}
			if h.Beside {
				after = strings.TrimSpace(after + " (beside others)")
			}
			row(what, ph.Name+"/"+h.Name, h.Why, after)
		}
		for _, name := range ph.Ignored {
			row("ignored", ph.Name+"/"+name, "not a hook's name: only letters, digits, - and _", "")
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(table.String()) {
		fmt.Fprintln(io.Stdout, strings.TrimRight(line, " \n"))
	}
	return nil
}
