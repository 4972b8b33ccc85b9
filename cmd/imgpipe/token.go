package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	stdio "io"
	"text/tabwriter"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
)

func tokenCommand() *command.Command {
	var dir, role string
	var lasts time.Duration
	var asJSON bool
	return &command.Command{
		Name:  "token",
		Args:  "add NAME | ls | revoke NAME",
		Short: "say who may ask a server for what",
		Long: `
A token is how people, programs and workers name themselves to 'imgpipe serve'. add prints it, once: what is kept
is its digest. Its role says what it suffices for: viewer looks; operator begins and ends runs, promotes and
freezes; approver approves; admin does all that; worker takes tasks, and does nothing else. A worker is called
by its token's name.`,
		Example: `imgpipe token add ci --role operator --lasts 8760h
imgpipe token add builder1 --role worker > /etc/goldsmith/worker.token
imgpipe token revoke ci`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.StringVar(&role, "role", string(api.Viewer), "`ROLE` of the token: viewer, operator, approver, admin or worker")
			fs.DurationVar(&lasts, "lasts", 0, "how long it counts; 0: until it is revoked")
			fs.BoolVar(&asJSON, "json", false, "print the result as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			verb := ""
			if len(args) > 0 {
				verb = args[0]
			}
			if len(args) != map[string]int{"add": 2, "ls": 1, "revoke": 2}[verb] || verb == "" {
				return command.Usage("token: expected add NAME, ls, or revoke NAME", "imgpipe token add ci --role operator")
			}
			o, err := openOffice(ctx, dir)
			if err != nil {
				return err
			}
			defer o.close()
			a := api.NewAccess(o.db)
			switch verb {
			case "revoke":
				return act(ctx, o.db, caller(), "token revoke "+args[1], func(ctx context.Context) error { return a.Revoke(ctx, args[1], caller()) })
			case "ls":
				return listTokens(ctx, io.Stdout, a, asJSON)
			}
			var secret string
			err = act(ctx, o.db, caller(), "token add "+args[1], func(ctx context.Context) error {
				secret, err = a.Add(ctx, args[1], api.Role(role), lasts, caller())
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(io.Stdout).Encode(map[string]string{"name": args[1], "role": role, "token": secret})
			}
			fmt.Fprintln(io.Stdout, secret)
			return nil
		},
	}
}

func listTokens(ctx context.Context, out stdio.Writer, a *api.Access, asJSON bool) error {
	list, err := a.List(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return json.NewEncoder(out).Encode(list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tMADE BY\tCREATED\tEXPIRES\tUSED")
	for _, t := range list {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", t.Name, t.Role, t.MadeBy, t.Created.Format(time.RFC3339), day(t.Expires, "never"), day(t.Used, "never"))
	}
	return w.Flush()
}

func day(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Format(time.RFC3339)
}

func auditCommand() *command.Command {
	var dir string
	var asJSON bool
	var n int
	return &command.Command{
		Name:  "audit",
		Short: "show who asked for what, of a server or here",
		Long: `
Shows requests and commands that changed something, and those that were refused, newest last. http is who
showed a token, by its name; command is who ran imgpipe where the database is: the name is what it was told, and the
user that ran it stands beside it.`,
		Example: `imgpipe audit -n 20`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.BoolVar(&asJSON, "json", false, "print them as JSON")
			fs.IntVar(&n, "n", 100, "show at most `N`")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 0 || n < 1 {
				return command.Usage("audit takes no arguments", "")
			}
			o, err := openOffice(ctx, dir)
			if err != nil {
				return err
			}
			defer o.close()
			list, err := api.NewAccess(o.db).Audit(ctx, n)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(io.Stdout).Encode(list)
			}
			w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Time.Format(time.RFC3339), r.Via, r.Who, r.Role, r.Peer, r.Status, r.Request, r.Detail)
			}
			return w.Flush()
		},
	}
}
