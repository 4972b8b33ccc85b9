// Applycfg writes configuration files from templates and metadata. Called as
// os-apply-config or os-config-applier it takes their flags.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/schema"
)

// version is set when the program is linked.
var version = "dev"

// originalLog is where os-apply-config logs to as root. It is set otherwise
// when the program is linked for tests.
var originalLog = "/var/log/os-apply-config.log"

// changedFiles is the variable in which refreshcfg names a file for the paths
// that change.
const changedFiles = "GOLDSMITH_CHANGED_FILES"

func main() {
	// A run is short: what it leaves in memory goes with it.
	debug.SetGCPercent(200)
	os.Exit(run(filepath.Base(os.Args[0]), os.Args[1:], originalLog))
}

// run is main without the process around it.
func run(name string, args []string, log string) int {
	if slices.Contains(originals, name) {
		return runOriginal(name, args, log)
	}
	a := &app{name: name}
	main := a.program().Main
	if quick(args) {
		main = func(args []string) int {
			return a.program().Run(context.Background(), args, command.IO{Stdin: os.Stdin, Stdout: os.Stdout,
				Stderr: os.Stderr})
		}
	}
	if status := main(spread(args)); status != command.StatusOK {
		return status
	}
	return a.status
}

// quick says that nothing is written, so that a signal may end the program
// where it is: to be ready for signals costs as much time as to find a key.
func quick(args []string) bool {
	return slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		return strings.HasPrefix(arg, "-") && slices.Contains([]string{"key", "boolean-key", "version",
			"print-templates"}, name)
	})
}

// app is the program with its flags.
type app struct {
	name   string        // the name it was called by
	status int           // what to exit with when nothing went wrong
	line   *flag.FlagSet // the command line's flags

	templates, output, list     string
	metadata, fallback          files
	subhash, state              string
	key, boolKey, keyDefault    optional
	typeName                    string
	rules                       *schema.Schema // of templates
	named                       bool           // what templates get is the value beside the name of a secret
	validate, print, strict     bool
	json, dryRun, diff, keep    bool
	rollback, markGood, version bool
	recover                     bool
}

func (a *app) program() *command.Program {
	return &command.Program{Name: a.name, Version: version, Root: &command.Command{
		Short: "write configuration files from templates and metadata",
		Long: "The template tree mirrors the destination: etc/app.conf makes /etc/app.conf. Every template is rendered\n" +
			"before a file is written; all files change or none does; a file that is already right is not touched.\n" +
			"Metadata are the JSON files given with --metadata, else those of the environment variable OS_CONFIG_FILES\n" +
			"(colons between), else those that collectcfg listed; the later override the earlier. --boolean-key exits\n" +
			"with 0, 1, or 255 when the value is neither true nor false.",
		Example: "applycfg --dry-run --diff -t templates/redis -o /tmp/out -m metadata.json\n" +
			"applycfg --key redis.port --type int --key-default 6379",
		Flags: a.flags,
		Run:   a.run,
	}, Commands: []*command.Command{checkCommand(), keysCommand(), renderCommand()}}
}

func (a *app) flags(fs *flag.FlagSet) {
	*a = app{name: a.name, line: fs} // help declares the flags once more
	a.templates, _ = applycfg.TemplatesDir()
	text := func(p *string, short, long, value, usage string) {
		fs.StringVar(p, long, value, usage)
		if short != "" {
			fs.StringVar(p, short, value, "short for --"+long)
		}
	}
	truth := func(p *bool, short, long, usage string) {
		fs.BoolVar(p, long, false, usage)
		if short != "" {
			fs.BoolVar(p, short, false, "short for --"+long)
		}
	}
	text(&a.templates, "t", "templates", a.templates, "`directory` of templates")
	text(&a.output, "o", "output", "/", "`directory` to write below")
	fs.Var(&a.metadata, "metadata", "`file` of metadata; may be repeated, and take several")
	fs.Var(&a.metadata, "m", "short for --metadata")
	fs.Var(&a.fallback, "fallback-metadata",
		"`file` of metadata that is read first, if it is there; may be repeated, and take several")
	text(&a.list, "", "os-config-files", "",
		"JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
	text(&a.subhash, "s", "subhash", "", "render with the object at this `key` instead of the whole metadata")
	fs.Var(&a.key, "key", "print the value of a dotted `key` and exit")
	text(&a.typeName, "", "type", "default", "`type` that the value of --key must have")
	fs.Var(&a.keyDefault, "key-default", "`text` to print when --key is not there")
	fs.Var(&a.boolKey, "boolean-key", "exit with the truth of a dotted `key`")
	truth(&a.validate, "v", "validate", "render everything, write nothing")
	truth(&a.strict, "", "strict", "a key that a template shows and the metadata have not is an error")
	truth(&a.print, "", "print-templates", "print the directory of templates and exit; with --json, that of files, too")
	truth(&a.json, "", "json", "print what changed as JSON")
	truth(&a.dryRun, "n", "dry-run", "print what would change, write nothing")
	truth(&a.diff, "", "diff", "with --dry-run: print how files would change, without secrets")
	truth(&a.keep, "", "rollback-on-failure", "keep what is replaced, for --rollback, until --mark-good")
	truth(&a.rollback, "", "rollback", "give back all files that were replaced since --mark-good")
	truth(&a.recover, "", "recover", "finish or undo what a run was doing when it was killed, and nothing else")
	truth(&a.markGood, "", "mark-good", "the files are good as they are: forget what was kept")
	text(&a.state, "", "state", "",
		"`directory` of lock, journal and what is kept; empty means "+applycfg.DefaultState+", or one in --output")
	truth(&a.version, "", "version", "print the version and exit")
}

func (a *app) run(ctx context.Context, io command.IO, words []string) error {
	if err := a.check(words); err != nil {
		return err
	}
	out := applycfg.Output{Dir: a.output, State: a.state, DryRun: a.dryRun, Diff: a.diff, Keep: a.keep, Tell: os.Getenv(changedFiles),
		Waiting: func() { a.say(io, "waiting for another run to end") },
		Warn:    func(err error) { a.say(io, "%v", err) }}
	switch {
	case a.print:
		return a.printTemplates(io)
	case a.rollback:
		if a.diff {
			out.Secrets = a.secrets(ctx, io)
		}
		changes, err := out.Rollback(ctx)
		return a.report(io, changes, err)
	case a.markGood:
		return out.MarkGood(ctx)
	case a.recover:
		return out.Recover(ctx)
	}
	doc, err := a.load(ctx, io)
	if err != nil {
		return err
	}
	switch {
	case a.key.text != nil:
		return a.printKey(io, doc)
	case a.boolKey.text != nil:
		return a.truth(doc)
	}
	if err := a.rules.Refuse(a.templates, doc); err != nil {
		return err
	}
	if doc, err = a.below(doc); err != nil {
		return err
	}
	if _, err := os.Stat(a.templates); os.IsNotExist(err) && a.templates == applycfg.DefaultTemplates {
		a.say(io, "no templates: %s is not there", a.templates)
		return nil
	}
	return a.apply(ctx, io, doc, out)
}

// load reads metadata and the templates' schema.
func (a *app) load(ctx context.Context, io command.IO) (*metadata.Object, error) {
	s := applycfg.FromEnvironment(a.metadata, a.list)
	s.Fallback, s.Deprecated = a.fallback, func(path string) {
		a.say(io, "deprecated: the list of metadata files is %s; collectcfg writes %s", path, applycfg.DefaultList)
	}
	doc, err := s.LoadContext(ctx)
	if err != nil {
		return nil, err
	}
	a.rules, err = schema.Read(schema.Dir(a.templates))
	return a.rules.WithDefaults(doc), err
}

// check refuses what the original would take for something that nobody means.
func (a *app) check(words []string) error {
	switch {
	case len(words) > 0 && words[0] == "completion":
		return command.Usage("completion needs a shell", "bash, zsh or fish")
	case len(words) > 0:
		return noWords(words)
	case a.output == "":
		return command.Usage("--output is empty", "the whole system is /")
	case a.key.text != nil && *a.key.text == "", a.boolKey.text != nil && *a.boolKey.text == "":
		return command.Usage("the key is empty", "name a key, such as redis.port")
	case a.key.text != nil && !applycfg.KnownType(a.typeName):
		return command.Usage(fmt.Sprintf("no such type: %q", a.typeName), applycfg.TypesHint())
	}
	return refuse(given(a.line))
}

func (a *app) apply(ctx context.Context, io command.IO, doc *metadata.Object, out applycfg.Output) error {
	files, err := a.tree().Render(ctx, doc)
	if err != nil {
		return err
	}
	if a.validate {
		a.say(io, "%d templates are valid", len(files))
		return nil
	}
	changes, err := out.Apply(ctx, files)
	return a.report(io, changes, err)
}

// report is the result: with --json an object on standard output, with
// --dry-run the plan there, otherwise lines for people.
func (a *app) report(io command.IO, changes []applycfg.Change, err error) error {
	result := struct {
		Changes   []applycfg.Change `json:"changes"`
		Unchanged int               `json:"unchanged"`
		DryRun    bool              `json:"dry_run,omitempty"`
	}{Changes: []applycfg.Change{}, DryRun: a.dryRun}
	var lines bytes.Buffer // at once, as there may be many
	for _, c := range changes {
		switch {
		case c.Action == applycfg.Unchanged:
			result.Unchanged++
			continue
		case a.json:
		case a.dryRun:
			fmt.Fprintf(&lines, "%s %s\n", c.Action, command.Plain(c.Path))
			printDiff(&lines, c)
		default:
			fmt.Fprintf(&lines, "%s: %s %s\n", a.name, c.Action, command.Plain(c.Path))
		}
		result.Changes = append(result.Changes, c)
	}
	out := io.Stderr
	if a.dryRun {
		out = io.Stdout
	}
	if _, err := lines.WriteTo(out); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	if a.json {
		return json.NewEncoder(io.Stdout).Encode(result)
	}
	a.say(io, "%d changed, %d unchanged", len(result.Changes), result.Unchanged)
	return nil
}

// printDiff prints how a file changes, as diff -u does.
func printDiff(w io.Writer, c applycfg.Change) {
	if c.Diff == "" {
		return
	}
	before, after := command.Plain(c.Path), command.Plain(c.Path)
	switch c.Action {
	case applycfg.Created:
		before = "/dev/null"
	case applycfg.Deleted:
		after = "/dev/null"
	}
	fmt.Fprintf(w, "--- %s\n+++ %s\n%s", before, after, plain(c.Diff))
}

// plain is a text for people, with its tabs.
func plain(text string) string {
	parts := strings.Split(text, "\t")
	for i, p := range parts {
		parts[i] = command.Plain(p)
	}
	return strings.Join(parts, "\t")
}

func (a *app) printKey(io command.IO, doc *metadata.Object) error {
	text, ok, err := applycfg.Key(doc, *a.key.text, a.typeName)
	switch {
	case err != nil:
		return err
	case !ok && a.keyDefault.text == nil:
		return command.Hint(fmt.Errorf("key %s: not in the metadata", *a.key.text),
			"--key-default says what to print then")
	case !ok:
		text = *a.keyDefault.text
	}
	fmt.Fprintln(io.Stdout, text)
	return nil
}

func (a *app) truth(doc *metadata.Object) error {
	value, ok := applycfg.Bool(doc, *a.boolKey.text)
	switch {
	case !ok:
		return &command.Error{Status: 255, Err: fmt.Errorf("key %s: neither true nor false", *a.boolKey.text)}
	case !value:
		a.status = 1
	}
	return nil
}

func (a *app) say(io command.IO, format string, args ...any) {
	fmt.Fprintf(io.Stderr, "%s: %s\n", a.name, command.Plain(fmt.Sprintf(format, args...)))
}

// files is a flag that may be repeated.
type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

// optional is a flag that knows whether it was given.
type optional struct{ text *string }

func (o *optional) String() string     { return "" }
func (o *optional) Set(s string) error { o.text = &s; return nil }

// spread turns "-m a b" into "-m a -m b", which flag understands.
func spread(args []string) []string {
	var out []string
	many := ""
	for i, a := range args {
		switch {
		case a == "--":
			return append(out, args[i:]...)
		case slices.Contains([]string{"m", "metadata", "fallback-metadata"}, strings.TrimPrefix(strings.TrimPrefix(a,
			"-"), "-")) && a[0] == '-':
			many = a
			if i+1 == len(args) || strings.HasPrefix(args[i+1], "-") {
				out = append(out, a) // no value: flag's to complain about
			}
		case strings.HasPrefix(a, "-"):
			many = ""
			out = append(out, a)
		case many != "":
			out = append(out, many, a)
		default:
			out = append(out, a)
		}
	}
	return out
}
