package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	stdio "io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline/engine"
)

// historyFlags are those of history.
type historyFlags struct {
	dir    string
	json   bool
	filter engine.Filter
	dot    bool
	svg    bool
	all    bool
}

func historyCommand() *command.Command {
	var f historyFlags
	return &command.Command{
		Name:  "history",
		Args:  "ls | show N | diff N M | replay [N]",
		Short: "show what was decided, of what, and why",
		Long: `
Every decision about a run is kept with all that it was made of. ls lists decisions; show prints one: its cause,
what was known, what was done and why, what was not done and why not, and what happened half a minute before and
after; --dot and --svg draw its stages. diff says how two differ: in the pipeline, in what was known, and in what
was decided. replay decides anew, with this program's planner, one decision or all that are chosen (--all), and
ends with status 1 when anything comes out otherwise.`,
		Example: `imgpipe history ls --run 12
imgpipe history show 345 --svg > decision.svg
imgpipe history diff 345 346
imgpipe history replay --all`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &f.dir)
			fs.BoolVar(&f.json, "json", false, "print JSON")
			fs.Int64Var(&f.filter.Run, "run", 0, "of run `N` only")
			fs.StringVar(&f.filter.Image, "image", "", "of runs that work on the image with that `digest` only")
			fs.StringVar(&f.filter.Actor, "actor", "", "what `NAME` caused only")
			fs.Int64Var(&f.filter.Before, "before", 0, "older than decision `N` only")
			fs.IntVar(&f.filter.Limit, "n", 50, "at most `N`, the newest")
			fs.BoolVar(&f.dot, "dot", false, "show: print the stages as a graph for Graphviz")
			fs.BoolVar(&f.svg, "svg", false, "show: print the stages as a drawing")
			fs.BoolVar(&f.all, "all", false, "replay: every decision that is chosen")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error { return f.run(ctx, io.Stdout, args) },
	}
}

func (f *historyFlags) run(ctx context.Context, out stdio.Writer, args []string) error {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	want := map[string]int{"ls": 1, "show": 2, "diff": 3, "replay": 2}[verb]
	if verb == "replay" && f.all {
		want = 1
	}
	if len(args) != want || want == 0 || f.filter.Limit < 1 {
		return command.Usage("history: expected ls, show N, diff N M, or replay N", "imgpipe history ls")
	}
	o, err := openOffice(ctx, f.dir)
	if err != nil {
		return err
	}
	defer o.close()
	var shown []*engine.Shown
	for _, a := range args[1:] {
		id, err := engine.Number(a)
		if err != nil {
			return err
		}
		s, err := o.engine.Show(ctx, id)
		if err != nil {
			return err
		}
		shown = append(shown, s)
	}
	switch verb {
	case "ls":
		return o.listHistory(ctx, out, f)
	case "show":
		return showTransition(out, f, shown[0])
	case "diff":
		return printDifferences(out, f.json, engine.Compare(shown[0], shown[1]))
	}
	return o.replay(ctx, out, f, shown)
}

func encode(w stdio.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func (o *office) listHistory(ctx context.Context, out stdio.Writer, f *historyFlags) error {
	list, err := o.engine.History(ctx, f.filter)
	if err != nil {
		return err
	}
	if f.json {
		return encode(out, list)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DECISION\tRUN\tPIPELINE\tTIME\tCAUSE\tBY")
	for _, t := range list {
		fmt.Fprintf(w, "%d\t%d\t%s\t%s\t%s\t%s\n", t.ID, t.Run, t.Pipeline, t.Time.Format(time.RFC3339), t.Cause, t.Actor)
	}
	return w.Flush()
}

func showTransition(out stdio.Writer, f *historyFlags, s *engine.Shown) error {
	switch {
	case f.dot:
		_, err := fmt.Fprint(out, engine.DOT(s.Rules, s.Input, s.Output))
		return err
	case f.svg:
		_, err := fmt.Fprint(out, engine.SVG(s.Rules, s.Input, s.Output))
		return err
	case f.json:
		return encode(out, s)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "decision %d of run %d (%s), %s\n", s.ID, s.Run, s.Pipeline, s.Time.Format(time.RFC3339))
	fmt.Fprintf(w, "cause: %s %s\n", s.Cause, s.Actor)
	fmt.Fprintf(w, "\nwhat was known: run %s, %d of %d tasks of all runs at work, workers: %d\n", s.Input.Run.State, s.Input.Busy, s.Input.Cap, len(s.Input.Workers))
	for i, t := range s.Input.Tasks {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", s.Rules.Stages[i].Name, t.State, strings.Join(t.Failures, ", "), firstLine(t.Reason))
	}
	fmt.Fprintln(w, "\nwhat was done:")
	for _, a := range s.Output.Actions {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", a.Do, a.Stage, a.State, firstLine(a.Reason))
	}
	fmt.Fprintln(w, "\nwhat was not done, and why:")
	for _, x := range s.Output.Waits {
		fmt.Fprintf(w, "  %s\t%s\n", x.Stage, firstLine(x.Reason))
	}
	fmt.Fprintln(w, "\nwhat happened around it:")
	for _, e := range s.Events {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", e.Time.Format(time.RFC3339), e.Who, e.Node, firstLine(e.What))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, a := range s.Attempts {
		fmt.Fprintf(out, "\nlog of %s, attempt %d (%s), its end:\n", a.Stage, a.Number, a.State)
		for _, line := range logEnd(filepath.Join(engine.AttemptDir(f.dir, s.Run, a.Stage, a.Number), "log")) {
			fmt.Fprintln(out, "  "+line)
		}
	}
	return nil
}

// Of a log that is shown beside something else.
const (
	endLines = 5
	endBytes = 4 << 10
)

// logEnd is the end of a log; one that is not there has none.
func logEnd(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	b, err := stdio.ReadAll(stdio.NewSectionReader(f, max(0, fi.Size()-endBytes), endBytes))
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	lines = lines[max(0, len(lines)-endLines):]
	for i, l := range lines {
		lines[i] = command.Line(strings.ToValidUTF8(l, ""))
	}
	return lines
}

func printDifferences(out stdio.Writer, asJSON bool, list []engine.Difference) error {
	if asJSON {
		return encode(out, list)
	}
	for _, d := range list {
		fmt.Fprintf(out, "%s\n  - %s\n  + %s\n", d.What, firstLine(d.A), firstLine(d.B))
	}
	return nil
}

// replay decides anew. What comes out otherwise is a failure.
func (o *office) replay(ctx context.Context, out stdio.Writer, f *historyFlags, shown []*engine.Shown) error {
	var differ []engine.Replayed
	n := len(shown)
	if f.all {
		var err error
		if differ, n, err = o.engine.ReplayAll(ctx, f.filter); err != nil {
			return err
		}
	} else if d := engine.Replay(shown[0]); len(d) > 0 {
		differ = append(differ, engine.Replayed{Transition: shown[0].ID, Planner: shown[0].Planner, Differences: d})
	}
	if f.json {
		if err := encode(out, differ); err != nil {
			return err
		}
	} else {
		for _, r := range differ {
			fmt.Fprintf(out, "decision %d, planner %d\n", r.Transition, r.Planner)
			if err := printDifferences(out, false, r.Differences); err != nil {
				return err
			}
		}
		fmt.Fprintf(out, "decided anew: %d, otherwise: %d\n", n, len(differ))
	}
	if len(differ) > 0 {
		return &command.Error{Status: command.StatusFailed, Err: fmt.Errorf("%d of %d decisions come out otherwise with planner %d", len(differ), n, engine.PlannerVersion)}
	}
	return nil
}
