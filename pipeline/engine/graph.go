package engine

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"

	"goldsmith/pipeline"
)

// colours of states, by what they mean; the state is written, too, so that
// nobody has to see them.
var colours = map[pipeline.Status]string{
	pipeline.Passed: "#b7e1b0", pipeline.Failed: "#f3b3ad", pipeline.Running: "#a9cdf4", pipeline.Ready: "#d6e6f9", pipeline.Blocked: "#f7dfa5",
	pipeline.Skipped: "#e4e4e4", pipeline.Cancelled: "#e4e4e4", pipeline.Interrupted: "#f7dfa5", pipeline.Todo: "#ffffff",
}

// label is what a graph says of a stage: its name, its state, and what was
// decided about it.
func label(p Policy, s Snapshot, d Decision, i int) []string {
	name := p.Stages[i].Name
	list := []string{name, string(s.Tasks[i].State)}
	for _, a := range d.Actions {
		if a.Stage == name {
			list = append(list, "→ "+string(a.Do))
		}
	}
	return list
}

// DOT draws stages, how they stood and what was decided, in Graphviz's language
// (https://graphviz.org/doc/info/lang.html).
func DOT(p Policy, s Snapshot, d Decision) string {
	quote := func(t string) string {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(t) + `"`
	}
	var b strings.Builder
	fmt.Fprintf(&b, "digraph %s {\n  rankdir=LR;\n  node [shape=box, style=filled];\n", quote(p.Pipeline))
	for i, st := range p.Stages {
		text := strings.ReplaceAll(quote(strings.Join(label(p, s, d, i), "\n")), "\n", `\n`)
		fmt.Fprintf(&b, "  %s [label=%s, fillcolor=%s];\n", quote(st.Name), text, quote(colours[s.Tasks[i].State]))
		for _, n := range st.Needs {
			fmt.Fprintf(&b, "  %s -> %s;\n", quote(n), quote(st.Name))
		}
	}
	b.WriteString("}\n")
	return b.String()
}

// Measures of the drawing, in pixels.
const (
	boxWidth, boxHeight = 170, 58
	gapX, gapY, margin  = 60, 18, 12
)

// SVG draws the same by itself: a column for each distance from the beginning,
// in the stages' order.
func SVG(p Policy, s Snapshot, d Decision) string {
	depth := make([]int, len(p.Stages))
	var of func(i int) int
	of = func(i int) int {
		if depth[i] == 0 {
			depth[i] = 1
			for _, n := range p.Stages[i].Needs {
				depth[i] = max(depth[i], 1+of(slices.IndexFunc(p.Stages, func(st Stage) bool { return st.Name == n })))
			}
		}
		return depth[i]
	}
	x, y, rows, columns := make([]int, len(depth)), make([]int, len(depth)), map[int]int{}, 0
	for i := range p.Stages {
		c := of(i) - 1
		x[i], y[i] = margin+c*(boxWidth+gapX), margin+rows[c]*(boxHeight+gapY)
		rows[c]++
		columns = max(columns, c+1)
	}
	most := 0
	for _, n := range rows {
		most = max(most, n)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`+"\n",
		2*margin+columns*(boxWidth+gapX)-gapX, 2*margin+most*(boxHeight+gapY)-gapY)
	fmt.Fprintf(&b, "<title>%s</title>\n", escape(p.Pipeline))
	for i, st := range p.Stages {
		for _, n := range st.Needs {
			j := slices.IndexFunc(p.Stages, func(st Stage) bool { return st.Name == n })
			x1, y1, x2, y2 := x[j]+boxWidth, y[j]+boxHeight/2, x[i], y[i]+boxHeight/2
			fmt.Fprintf(&b, `<path d="M%d %dC%d %d %d %d %d %d" fill="none" stroke="#888"/>`+"\n", x1, y1, x1+gapX/2, y1, x2-gapX/2, y2, x2, y2)
		}
	}
	for i := range p.Stages {
		fmt.Fprintf(&b, `<g><rect x="%d" y="%d" width="%d" height="%d" rx="5" fill="%s" stroke="#555"/>`, x[i], y[i], boxWidth, boxHeight, colours[s.Tasks[i].State])
		for k, line := range label(p, s, d, i) {
			fmt.Fprintf(&b, `<text x="%d" y="%d">%s</text>`, x[i]+8, y[i]+17+16*k, escape(shorten(line)))
		}
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

// maxLabel is how long a line of a box may be, in characters.
const maxLabel = 24

func shorten(s string) string {
	if r := []rune(s); len(r) > maxLabel {
		return string(r[:maxLabel-1]) + "…"
	}
	return s
}

func escape(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a strings.Builder takes all
	return b.String()
}
