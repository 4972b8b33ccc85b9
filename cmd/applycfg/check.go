package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/schema"
	"goldsmith/internal/template"
)

// treeFlags name a template tree with its schema, for the commands that look at them.
type treeFlags struct {
	templates string
	metadata  files
	json      bool
}

func (t *treeFlags) flags(fs *flag.FlagSet) {
	*t = treeFlags{}
	t.templates, _ = applycfg.TemplatesDir()
	fs.StringVar(&t.templates, "t", t.templates, "short for --templates")
	fs.StringVar(&t.templates, "templates", t.templates, "`directory` of templates; the schema is schema.d beside it")
	fs.Var(&t.metadata, "metadata", "`file` of metadata; may be repeated, and take several")
	fs.Var(&t.metadata, "m", "short for --metadata")
	fs.BoolVar(&t.json, "json", false, "print the result as JSON")
}

// load reads templates and schema.
func (t *treeFlags) load() (*schema.Schema, []applycfg.Parsed, error) {
	s, err := schema.Read(schema.Dir(t.templates))
	if err != nil {
		return nil, nil, err
	}
	parsed, err := applycfg.Templates{Dir: t.templates}.Parse()
	return s, parsed, err
}

// checked is what check found out without running anything.
type checked struct {
	schema    *schema.Schema
	templates int
	found     []schema.Finding
	doc       *metadata.Object // nil without --metadata
}

func (t *treeFlags) check() (c checked, err error) {
	s, parsed, err := t.load()
	if err != nil {
		return c, err
	}
	c.schema, c.templates = s, len(parsed)
	c.found = s.Unknown(parsed)
	if t.metadata != nil {
		if c.doc, err = applycfg.FromEnvironment(t.metadata, "").Load(); err != nil {
			return c, err
		}
		c.doc = s.WithDefaults(c.doc)
		c.found = append(c.found, s.Wrong(parsed, c.doc)...)
	}
	return c, nil
}

// until does what only reads and computes, and leaves it where it is when the
// context ends: the program ends then.
func until[T any](ctx context.Context, do func() (T, error)) (T, error) {
	type outcome struct {
		result T
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		result, err := do()
		done <- outcome{result, err}
	}()
	select {
	case o := <-done:
		return o.result, o.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func noWords(words []string) error {
	if len(words) > 0 {
		return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "metadata files are given with --metadata")
	}
	return nil
}

func checkCommand() *command.Command {
	var t treeFlags
	var strict bool
	return &command.Command{
		Name:  "check",
		Short: "check templates, their schema and, if there are any, metadata",
		Long: "Templates and control files must be well formed, and the schema too; a key that a template reads and that the\n" +
			"schema has not, where it has others of that beginning, is an error. With --metadata, types and required keys\n" +
			"are checked and everything is rendered; --strict makes a missing key an error then. Nothing is written, and\n" +
			"without --metadata nothing is run. Builds of images run it. What is wrong is said with template, line and key,\n" +
			"and the status is 2.",
		Example: "applycfg check -t templates/redis -m metadata.json --strict",
		Flags: func(fs *flag.FlagSet) {
			t.flags(fs)
			fs.BoolVar(&strict, "strict", false, "with --metadata: a key that is not there is an error")
		},
		Run: func(ctx context.Context, io command.IO, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			c, err := t.checkAll(ctx, strict)
			if t.json && ctx.Err() == nil {
				found := c.found
				if err != nil {
					found = append(found, finding(err))
				}
				if found == nil {
					found = []schema.Finding{}
				}
				if err := json.NewEncoder(io.Stdout).Encode(map[string]any{"templates": c.templates, "findings": found}); err != nil {
					return err
				}
			}
			if err != nil {
				return err
			}
			return schema.AsError(c.found)
		},
	}
}

// checkAll also renders everything, where there are metadata and nothing is
// wrong with them.
func (t *treeFlags) checkAll(ctx context.Context, strict bool) (checked, error) {
	c, err := until(ctx, t.check)
	if err != nil || t.metadata == nil || len(c.found) > 0 {
		return c, err
	}
	tree := applycfg.Templates{Dir: t.templates, Strict: strict, Elsewhere: true, Secret: c.schema.Secrets("")}
	_, err = tree.Render(ctx, c.doc)
	return c, err
}

// finding is an error that ended a check.
func finding(err error) schema.Finding {
	e, ok := errors.AsType[*template.Error](err)
	if !ok {
		return schema.Finding{Problem: err.Error()}
	}
	f := schema.Finding{Template: fmt.Sprintf("%s:%d", e.Name, e.Line), Problem: e.Problem}
	const missing = "is not in the metadata"
	if key, ok := strings.CutSuffix(strings.TrimPrefix(e.Problem, "key "), " "+missing); ok {
		f.Key, f.Problem = key, missing
	}
	return f
}

// keyUse is a key that a tree reads.
type keyUse struct {
	Key      string          `json:"key"` // as the schema has it, or as the template writes it
	Type     string          `json:"type,omitempty"`
	Default  json.RawMessage `json:"default,omitempty"` // none of a secret; those in it are masked
	Required bool            `json:"required,omitempty"`
	Secret   bool            `json:"secret,omitempty"`
	Doc      string          `json:"doc,omitempty"`
	Uses     []string        `json:"uses"` // FILE:LINE
}

func keysCommand() *command.Command {
	var t treeFlags
	return &command.Command{
		Name:  "keys",
		Short: "list the keys that a template tree reads",
		Long: "Of each key: what the schema says of it, and the templates and lines that read it. A key inside a section is\n" +
			"listed as the schema knows it (servers[].name), else as it is written. What executable templates read is not\n" +
			"known.",
		Example: "applycfg keys -t templates/redis",
		Flags:   t.flags,
		Run: func(ctx context.Context, io command.IO, words []string) error {
			if err := noWords(words); err != nil {
				return err
			}
			list, err := until(ctx, func() ([]keyUse, error) {
				s, parsed, err := t.load()
				if err != nil {
					return nil, err
				}
				return keysOf(s, parsed), nil
			})
			if err != nil {
				return err
			}
			if t.json {
				return json.NewEncoder(io.Stdout).Encode(list)
			}
			w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
			for _, k := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\n", k.Key, k.about(), strings.Join(k.Uses, " "))
			}
			return w.Flush()
		},
	}
}

// about is what the schema says, in a few words.
func (k keyUse) about() string {
	words := []string{k.Type}
	if k.Required {
		words = append(words, "required")
	}
	if k.Secret {
		words = append(words, "secret")
	}
	if k.Default != nil {
		words = append(words, "= "+string(k.Default))
	}
	if s := strings.TrimSpace(strings.Join(words, " ")); s != "" {
		return s
	}
	return "-"
}

// keysOf lists keys in the order in which they are first read, templates in
// the order of their paths.
func keysOf(s *schema.Schema, parsed []applycfg.Parsed) []keyUse {
	list, index := []keyUse{}, map[string]int{}
	r, secret := s.Resolver(), s.Secrets("")
	defaults := applycfg.Templates{Secret: secret}.Masked(s.WithDefaults(&metadata.Object{}))
	for _, p := range parsed {
		for _, u := range p.Uses() {
			name, ok := r.Resolve(u.Key, u.Within)
			if !ok || name == "" {
				name = u.Key
			}
			if name == "." {
				continue // the item of a list that the schema has not
			}
			i, known := index[name]
			if !known {
				i = len(list)
				index[name] = i
				k := keyUse{Key: name}
				if rule := s.Key(name); rule != nil {
					k.Type, k.Required, k.Secret, k.Doc = rule.Type, rule.Required, rule.Secret, rule.Doc
					if rule.Default != nil && !secret(strings.ReplaceAll(name, "[]", "")) {
						v, _ := metadata.Lookup(defaults, name)
						k.Default = json.RawMessage(metadata.JSON(v))
					}
				}
				list = append(list, k)
			}
			at := fmt.Sprintf("%s:%d", p.Source, u.Line)
			if n := len(list[i].Uses); n == 0 || list[i].Uses[n-1] != at {
				list[i].Uses = append(list[i].Uses, at)
			}
		}
	}
	return list
}

// hostFile is a host's metadata.
func hostFile(dir, host string) (string, error) {
	if host == "" || host != filepath.Base(host) || strings.HasPrefix(host, ".") {
		return "", command.Usage(fmt.Sprintf("--host %q: not a host's name", host), "applycfg render --host web1 --hosts hosts")
	}
	return filepath.Join(dir, host+".json"), nil
}
