// Imgupdate writes, arms, proves and checks the two slots of a machine that
// runs an image of imgbuild's.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/command"
	"goldsmith/internal/update"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	os.Exit(program().Main(os.Args[1:]))
}

func program() *command.Program {
	return &command.Program{
		Name: "imgupdate", Version: version,
		Short: "write, prove and check the slots of this machine",
		Long: "A machine has two slots for its read-only root. An update is written into the one that does not run, is tried\n" +
			"three times at most, and is kept when it says that it is good; else the machine returns to the slot before\n" +
			"(docs/updates.md).",
		Commands: []*command.Command{
			statusCommand(), installCommand(), followCommand(), proveCommand(), goodCommand(), badCommand(), failedRunCommand(),
			checkCommand(), watchCommand(), rollbackCommand(), verifyCommand(), resetCommand(),
		},
	}
}

// options are the flags that most commands share.
type options struct {
	state, boot, esp, root string
	trust, health, quiesce string
	json                   bool
}

func (o *options) declare(fs *flag.FlagSet) {
	fs.StringVar(&o.state, "state", update.DefaultState, "`directory` of the record")
	fs.StringVar(&o.boot, "boot", update.DefaultBoot, "`file` in which imginit says what it started")
	fs.StringVar(&o.esp, "esp", "", "`directory` where the EFI partition is mounted; empty mounts it")
	fs.StringVar(&o.root, "root", "/", "`directory` of the system that runs")
}

// declareJSON is declare for a command that prints a result.
func (o *options) declareJSON(fs *flag.FlagSet) {
	o.declare(fs)
	fs.BoolVar(&o.json, "json", false, "print the result as JSON")
}

// machine is this machine. What it says goes to standard error.
func (o *options) machine(io command.IO) (*update.Machine, error) {
	m := &update.Machine{State: o.state, Root: o.root, Say: func(format string, args ...any) {
		fmt.Fprintf(io.Stderr, "imgupdate: "+format+"\n", args...)
	}}
	if o.esp != "" {
		m.ESP = func() (string, func() error, error) { return o.esp, func() error { return nil }, nil }
	}
	return m, m.LoadBoot(o.boot)
}

// run is a command that works on the machine and takes no words.
func (o *options) run(
	f func(ctx context.Context, io command.IO, m *update.Machine) error,
) func(context.Context, command.IO, []string) error {
	return func(ctx context.Context, io command.IO, words []string) error {
		if len(words) > 0 {
			return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "see 'imgupdate --help'")
		}
		m, err := o.machine(io)
		if err != nil {
			return err
		}
		return f(ctx, io, m)
	}
}

func printJSON(io command.IO, v any) error {
	e := json.NewEncoder(io.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func statusCommand() *command.Command {
	o := &options{}
	return &command.Command{
		Name: "status", Short: "say what is in the slots and what starts next",
		Long:    "The last lines are images that failed on this machine, or that an operator went back from, and why.",
		Example: "imgupdate status --json",
		Flags:   o.declareJSON,
		Run: o.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			s, err := m.Status(ctx)
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(io, s)
			}
			return printStatus(io, s)
		}),
	}
}

func printStatus(io command.IO, s update.Status) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SLOT\tSTATE\tVERSION\tDIGEST\t")
	for _, name := range []string{"a", "b"} {
		slot, note := s.Record.Slots[name], ""
		if name == s.Boot.Slot {
			note = "runs"
		}
		if t := s.Record.Trial; t != nil && t.Slot == name {
			note = strings.TrimSpace(note + " on trial")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", name, slot.State, cmp.Or(slot.Version, "-"),
			cmp.Or(slot.Digest, "-"), note)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(io.Stdout, "boot loader: %s\n", s.Loader)
	if s.Boot.State != "" {
		fmt.Fprintf(io.Stdout, "state: %s\n", command.Plain(s.Boot.State))
	}
	for _, f := range s.Record.Failed {
		if f.Back {
			fmt.Fprintf(io.Stdout, "rolled back: version %s (%s): %s\n", f.Version, f.Digest, f.Reason)
			continue
		}
		fmt.Fprintf(io.Stdout, "failed: version %s (%s): %s\n", f.Version, f.Digest, f.Reason)
	}
	return nil
}

func checkCommand() *command.Command {
	o := &options{}
	var settled string
	return &command.Command{
		Name: "check", Short: "compare what the boot loader did with what is recorded, and put it right",
		Long: "A unit runs it at every start. What an interrupted update left is removed. A machine that came back from an\n" +
			"image says why, on its console too. When a trial is over the machine is restarted.",
		Example: "imgupdate check --json",
		Flags: func(fs *flag.FlagSet) {
			o.declareJSON(fs)
			fs.StringVar(&settled, "settled", "", "`file` to make when what runs need not prove itself")
		},
		Run: o.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			found, err := m.Check(ctx)
			if f := found.Returned; f != nil {
				tellConsole(fmt.Sprintf("imgupdate: returned from version %s (%s): %s", f.Version, f.Digest, f.Reason))
			}
			if err != nil && !found.Restart {
				return err
			}
			if o.json {
				err = errors.Join(err, printJSON(io, found))
			}
			switch {
			case found.Restart:
				err = errors.Join(err, m.Restart(ctx, false))
			case settled != "" && !found.Trial:
				err = errors.Join(err, os.WriteFile(settled, nil, 0o644))
			}
			return err
		}),
	}
}

// tellConsole says something where somebody may look who has no login. A reason
// in it may be a program's words.
func tellConsole(line string) {
	f, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return // there is none
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\r\n", command.Plain(line))
}
