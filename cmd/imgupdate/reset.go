package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/update"
)

func resetCommand() *command.Command {
	o := &options{}
	var yes bool
	return &command.Command{
		Name: "reset", Short: "have this machine forget all it keeps, and restart it",
		Long: "The image that runs stays, and so do the records about the slots; everything else on the state partition\n" +
			"is lost. Without --yes it says what that is, and does nothing.",
		Example: "imgupdate reset --yes",
		Flags: func(fs *flag.FlagSet) {
			o.declare(fs)
			fs.BoolVar(&yes, "yes", false, "do it")
		},
		Run: o.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			if !yes {
				fmt.Fprintf(io.Stderr, "imgupdate: lost would be %s\n", kept(filepath.Dir(o.state)))
				return command.Usage("nothing was done", "imgupdate reset --yes")
			}
			if err := m.Reset(ctx); err != nil {
				return err
			}
			tellConsole("imgupdate: factory reset")
			return m.Restart(ctx, false)
		}),
	}
}

// kept says what is on the state partition, for people.
func kept(state string) string {
	what := []string{"who this machine is (its ID, name and SSH host keys) and what else is kept of /etc"}
	entries, _ := os.ReadDir(filepath.Join(state, "fs"))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			what = append(what, "what is in /"+e.Name())
		}
	}
	return strings.Join(what, "; ")
}
