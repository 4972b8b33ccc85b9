// Package command is the shape every goldsmith program shares: a table of
// commands with their flags, help and completion, one way to report an error
// and its exit status, one way to show progress, and one way to run another
// program.
//
// A main function builds a [Program] and exits with what [Program.Main]
// returns. Commands return errors; nothing below main prints them or exits.
// Standard output carries results only; everything meant for people goes to
// standard error with the program's name in front.
//
// The package knows nothing of images, machines or pipelines.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// IO is what a command may read and write.
type IO struct {
	Stdin  io.Reader
	Stdout io.Writer // results only
	Stderr io.Writer // for people
}

// Command is one verb of a program, or a whole program that has no verbs.
type Command struct {
	Name    string // the verb; empty for a program without verbs
	Args    string // what follows the flags, for the usage line: "IMAGE"
	Short   string // one line, lower case, no full stop
	Long    string // what it does, in paragraphs
	Example string // at least one complete command line

	// Words are what its words may be, and Values what a flag's value may be, by
	// its name: for completion. Empty: file names.
	Words  []string
	Values map[string][]string

	// Flags declares the command's flags; nil means it has none.
	Flags func(*flag.FlagSet)
	// Run does the work. args are the words that are not flags; flags and
	// other words may come in any order, and "--" ends the flags.
	Run func(ctx context.Context, io IO, args []string) error
}

// Program is a table of commands.
type Program struct {
	Name     string
	Short    string
	Long     string
	Version  string
	Commands []*Command
	// Root, when set, is what the program does without a verb. Commands may be
	// beside it: a first word that is the name of one is that verb.
	Root *Command
	// Status is the exit status for an error; nil means the package's Status.
	Status func(error) int
}

// Main runs the program with args (without the program's own name), prints
// the error if there is one, and returns the exit status. An interrupt,
// hang-up or termination signal cancels the command's context and makes the
// status 130.
func (p *Program) Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	// A reader that went away must not end us in the middle of the work: with
	// a channel for SIGPIPE, writing to it is an error instead (os/signal).
	// Unlike an ignored signal, that is not inherited by other programs.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	return p.Run(ctx, args, IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr})
}

// Run is Main without the process around it. A command that could not write
// its results has failed, whether it looked or not.
func (p *Program) Run(ctx context.Context, args []string, io IO) int {
	out := &Output{W: io.Stdout}
	io.Stdout = out
	err := p.dispatch(ctx, args, io)
	if err == nil {
		err = out.Err()
	}
	if err == nil {
		return StatusOK
	}
	if ctx.Err() != nil {
		fmt.Fprintf(io.Stderr, "%s: interrupted\n", p.Name)
		if err := beside(err, context.Canceled); err != nil {
			Print(io.Stderr, p.Name, err) // something could not be cleaned up
		}
		return StatusInterrupted
	}
	Print(io.Stderr, p.Name, err)
	if p.Status != nil {
		return p.Status(err)
	}
	return Status(err)
}

func (p *Program) dispatch(ctx context.Context, args []string, io IO) error {
	if p.Root != nil {
		if len(args) == 2 && args[0] == "completion" {
			return p.complete(io.Stdout, args[1])
		}
		if len(args) > 0 {
			if c := p.find(args[0]); c != nil {
				return p.runCommand(ctx, c, args[1:], io)
			}
		}
		return p.runCommand(ctx, p.Root, args, io)
	}
	if len(args) == 0 {
		p.usage(io.Stderr)
		return Usage("no command given", "")
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		if len(args) > 1 {
			if c := p.find(args[1]); c != nil {
				p.help(io.Stdout, c)
				return nil
			}
			return Usage(fmt.Sprintf("unknown command %q", args[1]), "see '"+p.Name+" help'")
		}
		p.usage(io.Stdout)
		return nil
	case "version", "-version", "--version":
		fmt.Fprintf(io.Stdout, "%s %s\n", p.Name, p.Version)
		return nil
	case "completion":
		if len(args) != 2 {
			return Usage("completion needs a shell", "bash, zsh or fish")
		}
		if strings.TrimLeft(args[1], "-") == "help" {
			fmt.Fprintf(io.Stdout, "%s completion: %s\n\nExample:\n  source <(%s completion bash)\n", p.Name,
				completionShort, p.Name)
			return nil
		}
		return p.complete(io.Stdout, args[1])
	}
	c := p.find(args[0])
	if c == nil {
		return Usage(fmt.Sprintf("unknown command %q", args[0]), "see '"+p.Name+" help'")
	}
	return p.runCommand(ctx, c, args[1:], io)
}

func (p *Program) find(name string) *Command {
	for _, c := range p.Commands {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func (p *Program) runCommand(ctx context.Context, c *Command, args []string, io IO) error {
	fs := c.flagSet()
	words, err := parse(fs, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		p.help(io.Stdout, c)
		return nil
	case err != nil:
		return Usage(err.Error(), "see '"+p.path(c)+" --help'")
	}
	if v := fs.Lookup("version"); v != nil && c == p.Root && v.Value.String() == "true" {
		fmt.Fprintf(io.Stdout, "%s %s\n", p.Name, p.Version)
		return nil
	}
	return c.Run(ctx, io, words)
}

func (c *Command) flagSet() *flag.FlagSet {
	fs := flag.NewFlagSet(c.Name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	if c.Flags != nil {
		c.Flags(fs)
	}
	return fs
}

// parse takes flags and words in any order. "--" ends the flags, as in
// getopt: every later word is an argument, whatever it starts with.
func parse(fs *flag.FlagSet, args []string) ([]string, error) {
	var tail []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, tail = args[:i], args[i+1:]
	}
	var words []string
	for len(args) > 0 {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		if args = fs.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	return append(words, tail...), nil
}

func (p *Program) path(c *Command) string {
	return strings.TrimSpace(p.Name + " " + c.Name)
}

func (p *Program) usage(w io.Writer) {
	fmt.Fprintf(w, "%s: %s\n\n", p.Name, p.Short)
	if p.Long != "" {
		fmt.Fprintf(w, "%s\n\n", strings.TrimSpace(p.Long))
	}
	fmt.Fprintf(w, "Usage: %s COMMAND [flags] [arguments]\n\n", p.Name)
	p.list(w)
	fmt.Fprintf(w, "\nExit status: %s\n", statusText)
	fmt.Fprintf(w, "Each command explains itself: %s COMMAND --help\n", p.Name)
}

// list prints the commands.
func (p *Program) list(w io.Writer) {
	width := len("completion")
	for _, c := range p.Commands {
		width = max(width, len(c.Name))
	}
	for _, c := range p.Commands {
		fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name, c.Short)
	}
	fmt.Fprintf(w, "  %-*s  %s\n", width, "completion", completionShort)
}

const completionShort = "print a completion script for bash, zsh or fish"

func (p *Program) help(w io.Writer, c *Command) {
	fmt.Fprintf(w, "%s: %s\n\nUsage: %s", p.path(c), c.Short, p.path(c))
	fs := c.flagSet()
	flags := flagNames(fs)
	if len(flags) > 0 {
		fmt.Fprint(w, " [flags]")
	}
	if c.Args != "" {
		fmt.Fprintf(w, " %s", c.Args)
	}
	fmt.Fprintf(w, "\n\n%s\n", strings.TrimSpace(c.Long))
	if c == p.Root && len(p.Commands) > 0 {
		fmt.Fprintf(w, "\nOr: %s COMMAND ...\n", p.Name)
		p.list(w)
	}
	if len(flags) > 0 {
		fmt.Fprint(w, "\nFlags:\n")
		fs.VisitAll(func(f *flag.Flag) {
			name, usage := flagUsage(f)
			fmt.Fprintf(w, "  %-22s %s\n", strings.TrimSpace(dashes(f.Name)+" "+name), usage)
		})
	}
	if c.Example != "" {
		fmt.Fprint(w, "\nExample:\n")
		for l := range strings.Lines(strings.TrimSpace(c.Example)) {
			fmt.Fprintf(w, "  %s\n", strings.TrimRight(l, "\n"))
		}
	}
	fmt.Fprintf(w, "\nExit status: %s\n", statusText)
}

// flagUsage is what a flag's value is called, if it has one, and what it does.
func flagUsage(f *flag.Flag) (value, usage string) {
	value, usage = flag.UnquoteUsage(f)
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" && f.DefValue != "[]" {
		usage += " (default " + f.DefValue + ")"
	}
	return value, usage
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

func flagNames(fs *flag.FlagSet) []string {
	var names []string
	fs.VisitAll(func(f *flag.Flag) { names = append(names, dashes(f.Name)) })
	return names
}

// Self returns the directory of the running program, symbolic links resolved:
// the programs of one build lie beside each other.
func Self() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	exe, err = filepath.EvalSymlinks(exe)
	if err != nil {
		return "", err
	}
	return filepath.Dir(exe), nil
}
