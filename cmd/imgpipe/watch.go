package main

import (
	"context"
	"fmt"
	stdio "io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

// watch shows a run as a tree until it has ended: on a terminal drawn anew as it
// changes, elsewhere a line for each change.
func watch(ctx context.Context, io command.IO, p place, id int64) error {
	f, onTerminal := io.Stdout.(*os.File)
	onTerminal = onTerminal && term.IsTerminal(int(f.Fd()))
	drawn, said := 0, map[string]string{}
	for {
		changed := p.changed()
		r, err := p.run(ctx, id)
		if err != nil {
			return err
		}
		if onTerminal {
			if drawn > 0 {
				fmt.Fprintf(io.Stdout, "\x1b[%dA\x1b[J", drawn) // up, and clear what is below
			}
			lines := command.FitAll(tree(r, time.Now()), f)
			for _, l := range lines {
				fmt.Fprintln(io.Stdout, l)
			}
			drawn = len(lines)
		} else {
			sayStages(io.Stdout, r, said)
		}
		if r.Status.Ended() {
			return verdict(r)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
			// Not more than a few times a second, whatever happens.
			time.Sleep(200 * time.Millisecond)
		case <-time.After(time.Second):
		}
	}
}

// sayStages prints stages that stand otherwise than they did.
func sayStages(w stdio.Writer, r *pipeline.Run, said map[string]string) {
	for _, s := range r.Stages {
		text := strings.TrimSpace(fmt.Sprintf("%s %s", s.Status, firstLine(s.Reason)))
		if said[s.Name] != text {
			said[s.Name] = text
			fmt.Fprintf(w, "%s: %s\n", s.Name, command.Plain(text))
		}
	}
	if r.Status.Ended() {
		fmt.Fprintf(w, "run %s %s: %s\n", r.ID, r.Status, command.Plain(firstLine(r.Reason)))
	}
}

// marks say a state in one character, for who cannot see colours, too.
var marks = map[pipeline.Status]string{
	pipeline.Todo: "·", pipeline.Ready: "○", pipeline.Running: "▶", pipeline.Passed: "✓", pipeline.Failed: "✗",
	pipeline.Skipped: "-", pipeline.Cancelled: "-", pipeline.Interrupted: "!", pipeline.Blocked: "‖",
}

// tree is a run as lines: each stage below the last of those that it needs.
func tree(r *pipeline.Run, now time.Time) []string {
	lines := []string{fmt.Sprintf("run %s  %s  %s  %s", r.ID, r.Pipeline, r.Status, went(r.Started, r.Ended, now))}
	below := map[string][]*pipeline.StageRun{}
	for _, s := range r.Stages {
		parent := ""
		for _, t := range r.Stages {
			if slices.Contains(s.Needs, t.Name) {
				parent = t.Name
			}
		}
		below[parent] = append(below[parent], s)
	}
	var draw func(parent, indent string)
	draw = func(parent, indent string) {
		for i, s := range below[parent] {
			branch, further := "├─ ", "│  "
			if i == len(below[parent])-1 {
				branch, further = "└─ ", "   "
			}
			lines = append(lines, indent+branch+stageLine(s, r.Host, now))
			draw(s.Name, indent+further)
		}
	}
	draw("", "")
	if r.Reason != "" {
		lines = append(lines, firstLine(r.Reason))
	}
	return lines
}

// stageLine says how a stage stands. host is the worker that works on all of
// them, if that is so.
func stageLine(s *pipeline.StageRun, host string, now time.Time) string {
	parts := []string{marks[s.Status] + " " + s.Name, string(s.Status)}
	if n := len(s.Attempts); n > 0 {
		last := s.Attempts[n-1]
		parts = append(parts, went(last.Started, last.Ended, now))
		if n > 1 {
			parts = append(parts, fmt.Sprintf("attempt %d", n))
		}
		if s.Status == pipeline.Running {
			if last.Worker == host {
				last.Worker = "" // everybody knows
			}
			parts = append(parts, last.Worker, s.Node, last.Progress)
		}
	}
	parts = append(parts, firstLine(s.Reason))
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "  ")
}

func went(from time.Time, to *time.Time, now time.Time) string {
	if to != nil {
		now = *to
	}
	return now.Sub(from).Round(time.Second).String()
}
