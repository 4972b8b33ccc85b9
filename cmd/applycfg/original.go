package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/argparse"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// originals are the names of the program that this one replaces.
var originals = []string{"os-apply-config", "os-config-applier"}

// originalVersion is the version of os-apply-config that ours stands in for.
const originalVersion = "12.0.0"

// original is the program as os-apply-config.
type original struct {
	name           string
	logFile        string // empty for none
	stdout, stderr io.Writer

	templates, output, list       string
	listGiven                     bool
	metadata, fallback            []string
	subhash, key, typeName, truth string
	keyDefault                    *string
	validate, print               bool
}

// runOriginal takes os-apply-config's command line and returns its exit
// status: 2 for a wrong command line, 255 for a --boolean-key that is neither
// true nor false, 1 for every other failure. It logs as the original does,
// to standard error and, as root, to logFile.
func runOriginal(name string, args []string, logFile string) int {
	out := &command.Output{W: os.Stdout}
	o := &original{name: name, stdout: out, stderr: os.Stderr, output: "/", typeName: "default",
		fallback: applycfg.OriginalFallback()}
	if os.Geteuid() == 0 {
		o.logFile = logFile
	}
	deprecated := false
	if o.templates, deprecated = applycfg.TemplatesDir(); deprecated {
		fmt.Fprintf(o.stderr,
			"WARNING:root:Template directory %s is deprecated.  The recommended location for template files is %s\n",
			o.templates, applycfg.DefaultTemplates)
	}
	switch err := argparse.Parse(o.options(), args); {
	case errors.Is(err, argparse.ErrStop):
		return o.written(out)
	case err != nil:
		fmt.Fprintf(o.stderr, "%s%s: error: %v\n", o.usage(), name, err)
		return 2
	}
	status, err := o.run()
	if err != nil {
		o.log("ERROR", strings.TrimSpace(err.Error()))
		if hint := command.HintOf(err); hint != "" {
			fmt.Fprintf(o.stderr, "hint: %s\n", hint)
		}
		if errors.Is(err, context.Canceled) {
			return command.StatusInterrupted
		}
		return 1
	}
	return max(status, o.written(out))
}

// written is the exit status for what was printed: 1 when it could not be.
func (o *original) written(out *command.Output) int {
	if err := out.Err(); err != nil {
		fmt.Fprintf(o.stderr, "%s: %v\n", o.name, err)
		return 1
	}
	return 0
}

func (o *original) options() []argparse.Option {
	text := func(p *string) func([]string) error {
		return func(v []string) error { *p = v[0]; return nil }
	}
	words := func(p *[]string) func([]string) error {
		return func(v []string) error { *p = v; return nil }
	}
	truth := func(p *bool) func([]string) error {
		return func([]string) error { *p = true; return nil }
	}
	say := func(s func() string) func([]string) error {
		return func([]string) error { fmt.Fprint(o.stdout, s()); return argparse.ErrStop }
	}
	return []argparse.Option{
		{Names: []string{"-h", "--help"}, Nargs: 0, Take: say(o.help)},
		{Names: []string{"-t", "--templates"}, Nargs: 1, Take: text(&o.templates)},
		{Names: []string{"-o", "--output"}, Nargs: 1, Take: text(&o.output)},
		{Names: []string{"-m", "--metadata"}, Nargs: argparse.Many, Take: words(&o.metadata)},
		{Names: []string{"--fallback-metadata"}, Nargs: argparse.Many, Take: words(&o.fallback)},
		{Names: []string{"-v", "--validate"}, Nargs: 0, Take: truth(&o.validate)},
		{Names: []string{"--print-templates"}, Nargs: 0, Take: truth(&o.print)},
		{Names: []string{"-s", "--subhash"}, Nargs: 1, Take: text(&o.subhash)},
		{Names: []string{"--key"}, Nargs: 1, Take: text(&o.key)},
		{Names: []string{"--type"}, Nargs: 1, Take: text(&o.typeName)},
		{Names: []string{"--key-default"}, Nargs: 1, Take: func(v []string) error { o.keyDefault = &v[0]; return nil }},
		{Names: []string{"--boolean-key"}, Nargs: 1, Take: text(&o.truth)},
		{Names: []string{"--version"}, Nargs: 0, Take: say(func() string { return originalVersion + "\n" })},
		{Names: []string{"--os-config-files"}, Nargs: 1, Take: func(v []string) error {
			o.list, o.listGiven = v[0],
				true
			return nil
		}},
	}
}

func (o *original) run() (status int, err error) {
	if o.print {
		fmt.Fprintln(o.stdout, o.templates)
		return 0, nil
	}
	s := applycfg.FromEnvironment(o.metadata, "")
	s.Original, s.Fallback = true, o.fallback
	s.Deprecated = func(path string) { o.log("WARNING", "DEPRECATED: falling back to "+path) }
	if o.listGiven {
		s.List = &o.list
	}
	if o.key != "" && o.truth != "" {
		o.log("WARNING", "--key is not compatible with --boolean-key. --boolean-key ignored.")
	}
	doc, err := s.Load()
	switch {
	case err != nil:
		return 0, err
	case o.key != "":
		s.Deprecated = nil // it was told
		return 0, o.printKey(doc, s)
	case o.truth != "":
		switch value, ok := applycfg.Bool(doc, o.truth); {
		case !ok:
			return 255, nil
		case !value:
			return 1, nil
		}
		return 0, nil
	}
	return 0, o.apply(doc)
}

// printKey prints a value of the document that s gave.
func (o *original) printKey(doc *metadata.Object, s applycfg.Sources) error {
	text, ok, err := applycfg.Key(doc, o.key, o.typeName)
	switch {
	case err != nil:
		return err
	case !ok && o.keyDefault == nil:
		paths, err := s.Paths()
		if err != nil {
			return err
		}
		for i, p := range paths {
			paths[i] = argparse.Quote(p)
		}
		return fmt.Errorf("key %s does not exist in [%s]", o.key, strings.Join(paths, ", "))
	case !ok:
		text = *o.keyDefault
	}
	fmt.Fprintln(o.stdout, text)
	return nil
}

func (o *original) apply(doc *metadata.Object) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	doc, err := applycfg.Subhash(doc, o.subhash)
	if err != nil {
		return err
	}
	files, err := applycfg.Templates{Dir: o.templates, Original: true}.Render(ctx, doc)
	if err != nil {
		return err
	}
	if !o.validate {
		if o.output == "" { // there, the current directory, or a traceback
			return errors.New("--output is empty")
		}
		out := applycfg.Output{Dir: o.output, Create: true, Tell: os.Getenv(changedFiles), Waiting: func() {
			o.log("INFO",
				"waiting for another run to end")
		}}
		changes, err := out.Apply(ctx, files)
		if err != nil {
			return err
		}
		var lines []string
		for _, c := range changes {
			switch c.Action {
			case applycfg.Created, applycfg.Updated:
				lines = append(lines, "writing "+c.Path)
			case applycfg.Deleted:
				lines = append(lines, "deleting "+c.Path)
			}
		}
		o.log("INFO", lines...)
	}
	o.log("INFO", "success")
	return nil
}

// log writes lines as the original's logger does. The log file is a help for
// people: when it cannot be written, the work goes on.
func (o *original) log(level string, messages ...string) {
	var lines []byte
	now := time.Now().Format("2006/01/02 03:04:05 PM")
	for _, m := range messages {
		lines = fmt.Appendf(lines, "[%s] [%s] %s\n", now, level, m)
	}
	_, _ = o.stderr.Write(lines)
	if o.logFile == "" {
		return
	}
	f, err := os.OpenFile(o.logFile, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return
	}
	_, _ = f.Write(lines)
	_ = f.Close()
}

// usage is what argparse prints of the options, 80 columns wide.
func (o *original) usage() string {
	words := []string{"[-h]", "[-t TEMPLATE_ROOT]", "[-o OUT_DIR]", "[-m [METADATA_FILE ...]]",
		"[--fallback-metadata [FALLBACK_METADATA ...]]",
		"[-v]", "[--print-templates]", "[-s SUBHASH]", "[--key KEY]", "[--type TYPE]", "[--key-default KEY_DEFAULT]",
		"[--boolean-key BOOLEAN_KEY]", "[--version]", "[--os-config-files OS_CONFIG_FILES]"}
	return argparse.Usage(o.name, words)
}

func (o *original) help() string {
	return o.usage() + `
Reads and merges JSON configuration files specified by colon separated
environment variable OS_CONFIG_FILES, unless overridden by command line option
--metadata. If no files are specified this way, falls back to legacy behavior
of searching the fallback metadata path for a single config file.

options:
  -h, --help            show this help message and exit
  -t TEMPLATE_ROOT, --templates TEMPLATE_ROOT
                        path to template root directory (default:
                        ` + o.templates + `)
  -o OUT_DIR, --output OUT_DIR
                        root directory for output (default:/)
  -m [METADATA_FILE ...], --metadata [METADATA_FILE ...]
                        Overrides environment variable OS_CONFIG_FILES.
                        Specify multiple times, rather than separate files
                        with ":".
  --fallback-metadata [FALLBACK_METADATA ...]
                        Files to search when OS_CONFIG_FILES is empty.
                        (default: ['/var/cache/heat-cfntools/last_metadata',
                        '/var/lib/heat-cfntools/cfn-init-data',
                        '/var/lib/cloud/data/cfn-init-data'])
  -v, --validate        validate only. do not write files
  --print-templates     Print templates root and exit.
  -s SUBHASH, --subhash SUBHASH
                        use the sub-hash named by this key, instead of the
                        full metadata hash
  --key KEY             print the specified key and exit. (may be used with
                        --type and --key-default)
  --type TYPE           exit with error if the specified --key does not match
                        type. Valid types are <int|default|netaddress|netdevic
                        e|dsn|swiftdevices|raw>
  --key-default KEY_DEFAULT
                        This option only affects running with --key. Print
                        this if key is not found. This value is not subject to
                        type restrictions. If --key is specified and no
                        default is specified, program exits with an error on
                        missing key.
  --boolean-key BOOLEAN_KEY
                        This option is incompatible with --key. Use this to
                        evaluate whether a value is boolean true or false. The
                        return code of the command will be 0 for true, 1 for
                        false, and -1 for non-boolean values.
  --version             show program's version number and exit
  --os-config-files OS_CONFIG_FILES
                        Set path to os_config_files.json
`
}
