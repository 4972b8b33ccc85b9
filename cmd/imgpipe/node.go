package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/testbed/inventory"
)

// nodeFlags are the flags of all that can be done with nodes.
type nodeFlags struct {
	dir, owner, reason string
	limit              int
	json               bool
}

// nodeVerb is one thing that can be done with nodes.
type nodeVerb struct {
	name, args string
	words      int  // how many words must follow; -1: one or none
	looks      bool // and changes nothing
	run        func(ctx context.Context, io command.IO, v *inventory.Inventory, f *nodeFlags, args []string) error
}

// nodeVerbs in the order of help.
func nodeVerbs() []nodeVerb {
	change := func(name string, f func(context.Context, *inventory.Inventory, *nodeFlags, string) error) nodeVerb {
		return nodeVerb{name, "NODE", 1, false, func(ctx context.Context, _ command.IO, v *inventory.Inventory, nf *nodeFlags, args []string) error {
			return f(ctx, v, nf, args[0])
		}}
	}
	return []nodeVerb{
		{"ls", "", 0, true, listNodes},
		{"show", "NODE", 1, true, showNode},
		{"events", "[NODE]", -1, true, showEvents},
		{"apply", "FILE", 1, false, applyNodes},
		change("allow", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Allow(ctx, n, f.owner)
		}),
		change("withdraw", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Withdraw(ctx, n, f.owner)
		}),
		change("maintain", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			if f.reason == "" {
				return command.Usage("maintain needs a reason", "imgpipe node maintain "+n+" --reason 'new fan'")
			}
			return v.SetAside(ctx, n, inventory.Aside{Owner: f.owner, Reason: f.reason})
		}),
		change("resume", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Resume(ctx, n, f.owner, false)
		}),
		change("inspect", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Inspect(ctx, n, f.owner)
		}),
		change("clean", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Clean(ctx, n, f.owner)
		}),
		change("release", func(ctx context.Context, v *inventory.Inventory, f *nodeFlags, n string) error {
			return v.Revoke(ctx, n, f.owner, cmp.Or(f.reason, "by an operator"))
		}),
	}
}

func nodeCommand() *command.Command {
	f := &nodeFlags{}
	var words []string
	for _, v := range nodeVerbs() {
		words = append(words, v.name)
	}
	return &command.Command{
		Name:  "node",
		Args:  "VERB [NODE|FILE]",
		Short: "look at nodes, and say what may be done with them",
		Long: `
  ls               all nodes: state, power, who has them
  show NODE        everything about one
  events [NODE]    what happened, newest last
  apply FILE       make the inventory hold what the file declares
  allow NODE       let it be used
  withdraw NODE    do not let it be used again; who has it keeps it
  maintain NODE    keep everybody's hands off it, with --reason
  resume NODE      end that
  inspect NODE     have its hardware looked at again, after a failure for example
  clean NODE       have its disks wiped, after a failure for example
  release NODE     end the lease of whoever has it: its task fails

docs/formats.md, Inventory, has the file; docs/operations.md says what to do
about a node that failed.`,
		Example: `imgpipe node maintain metal1 --reason 'new fan, ticket 42'`,
		Words:   words,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &f.dir)
			fs.StringVar(&f.owner, "owner", "", "who does it; default: your user `name`")
			fs.StringVar(&f.reason, "reason", "", "`why`, for maintain and release")
			fs.IntVar(&f.limit, "n", 50, "how many `events` to show")
			fs.BoolVar(&f.json, "json", false, "print JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error { return runNode(ctx, io, f, args) },
	}
}

func runNode(ctx context.Context, io command.IO, f *nodeFlags, args []string) error {
	if len(args) == 0 {
		return command.Usage("node needs a verb", "imgpipe node ls; 'imgpipe node --help' has the others")
	}
	verbs := nodeVerbs()
	i := slices.IndexFunc(verbs, func(v nodeVerb) bool { return v.name == args[0] })
	if i < 0 {
		return command.Usage(fmt.Sprintf("node: no verb %q", args[0]), "'imgpipe node --help' has them")
	}
	verb, rest := verbs[i], args[1:]
	if verb.words >= 0 && len(rest) != verb.words || len(rest) > 1 {
		return command.Usage(fmt.Sprintf("node %s: expected %s", verb.name, cmp.Or(verb.args, "nothing more")), "")
	}
	if f.owner == "" {
		f.owner = caller()
	}
	db, err := openDatabase(ctx, f.dir)
	if err != nil {
		return err
	}
	defer db.Close()
	do := func(ctx context.Context) error { return verb.run(ctx, io, inventory.New(db), f, rest) }
	if verb.looks {
		return do(ctx)
	}
	return act(ctx, db, f.owner, "node "+strings.Join(args, " "), do)
}

// caller is the person who runs the program, also through sudo.
func caller() string {
	if s := os.Getenv("SUDO_USER"); s != "" {
		return s
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

func applyNodes(ctx context.Context, _ command.IO, v *inventory.Inventory, f *nodeFlags, args []string) error {
	file, err := inventory.Load(args[0])
	if err != nil {
		return err
	}
	return v.Apply(ctx, file, f.owner)
}

func listNodes(ctx context.Context, io command.IO, v *inventory.Inventory, f *nodeFlags, _ []string) error {
	nodes, err := v.Nodes(ctx)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(io, nodes)
	}
	if len(nodes) == 0 {
		fmt.Fprintln(io.Stdout, "no node yet")
		return nil
	}
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTATE\tALIVE\tPOWER\tWHO HAS IT\tIMAGE\tREMARK")
	for _, n := range nodes {
		holder, remark := "", n.Reason
		if n.Lease != nil {
			holder = n.Lease.Holder
		}
		if n.Aside != nil {
			remark = fmt.Sprintf("in maintenance by %s: %s", n.Aside.Owner, n.Aside.Reason)
		} else if !n.Alive {
			remark = cmp.Or(remark, n.AliveReason)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", n.Name, n.State, yesNo(n.Alive), powerOf(n), cmp.Or(holder, "-"), cmp.Or(shortDigest(n.Image), "-"),
			firstLine(remark))
	}
	return w.Flush()
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// powerOf is a node's power, how old that is, and what is wanted when that is
// something else.
func powerOf(n *inventory.Node) string {
	if n.PowerAt.IsZero() {
		return "unknown"
	}
	s := fmt.Sprintf("%v %v ago", n.Power, time.Since(n.PowerAt).Round(time.Second))
	if n.Wanted != n.Power && n.Wanted != 0 {
		s += fmt.Sprintf(", wanted %v", n.Wanted)
	}
	return s
}

// shortDigest is the beginning of a digest, enough for people.
func shortDigest(digest string) string { return digest[:min(len(digest), 19)] }

func showNode(ctx context.Context, io command.IO, v *inventory.Inventory, f *nodeFlags, args []string) error {
	n, err := v.Node(ctx, args[0])
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(io, n)
	}
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	row("node", "%s", n.Name)
	row("state", "%s since %s %s", n.State, n.Since.Format(time.RFC3339), firstLine(n.Reason))
	row("allowed", "%s", yesNo(n.Allowed))
	row("alive", "%s: %s", yesNo(n.Alive), n.AliveReason)
	row("power", "%s", powerOf(n))
	if n.Aside != nil {
		row("maintenance", "by %s since %s: %s", n.Aside.Owner, n.Aside.Since.Format(time.RFC3339), n.Aside.Reason)
	}
	if n.Lease != nil {
		row("lease", "%s, fence %d, until %s", n.Lease.Holder, n.Lease.Fence, n.Lease.Expires.Format(time.RFC3339))
	}
	if n.Image != "" {
		row("image", "%s", n.Image)
	}
	row("controller", "%s %s", n.Spec.BMC.Driver, n.Spec.BMC.Address)
	for _, s := range []inventory.Source{inventory.BMCSource, inventory.NetworkSource, inventory.AgentSource, inventory.HealthSource} {
		if seen, ok := n.Observed[s]; ok {
			row(string(s), "%s since %s %s", map[bool]string{true: "ok", false: "not ok"}[seen.OK], seen.Since.Format(time.RFC3339), firstLine(seen.Detail))
		}
	}
	if seen, ok := n.Observed[inventory.AddressSource]; ok {
		row("asked", "for an address, last about %s", seen.At.Format(time.RFC3339))
	}
	d := n.Policy().Decide(n, time.Now())
	row("recovery", "%s: %s", d.Do, d.Reason)
	return w.Flush()
}

func showEvents(ctx context.Context, io command.IO, v *inventory.Inventory, f *nodeFlags, args []string) error {
	node := ""
	if len(args) > 0 {
		node = args[0]
	}
	events, err := v.Events(ctx, node, f.limit)
	if err != nil {
		return err
	}
	if f.json {
		return printJSON(io, events)
	}
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	for _, e := range events {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), cmp.Or(e.Node, "-"), e.Kind, cmp.Or(e.Who, "-"), firstLine(e.What))
	}
	return w.Flush()
}

func printJSON(io command.IO, v any) error {
	enc := json.NewEncoder(io.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
