package applycfg

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// diff is how the content of a file changes. was says what of the old content
// is public: nobody else knows what that holds.
func (r *root) diff(j *job, was proof) string {
	before := ""
	if j.there && j.old.Mode&unix.S_IFMT == unix.S_IFREG {
		body, err := r.read(j.path)
		if err != nil {
			return ""
		}
		before = string(body)
	}
	after := string(j.body)
	ops := edits(lines(before), lines(after))
	masked, public := maskedLines(j.shown, after), was.of(before)
	for i := range ops {
		e := &ops[i]
		switch {
		case e.kind != '-':
			e.text = strings.TrimSuffix(masked[e.atB], "\n")
		case !public(e.atA) || j.shown != nil && j.shown.hide(e.text) != e.text:
			e.text = stars(e.text)
		}
	}
	return unified(ops)
}

// unified is a difference as diff -u has it, without the lines that name the
// texts.
func unified(ops []edit) string {
	var out strings.Builder
	const context = 3
	for i := 0; i < len(ops); {
		if ops[i].kind == ' ' {
			i++
			continue
		}
		from, to := max(0, i-context), i
		for quiet := 0; to < len(ops) && quiet <= 2*context; to++ {
			if quiet++; ops[to].kind != ' ' {
				quiet = 0
			}
		}
		for last := to; last > i && ops[last-1].kind == ' '; last-- {
			to = min(to, last-1+context)
		}
		hunk(&out, ops[from:min(to, len(ops))])
		i = to
	}
	return out.String()
}

// edit is one line of a difference: kept, removed or added.
type edit struct {
	kind       byte // ' ', '-' or '+'
	text       string
	atA, atB   int // lines before it in each text
	incomplete bool
}

func hunk(out *strings.Builder, ops []edit) {
	var inA, inB int
	for _, o := range ops {
		if o.kind != '+' {
			inA++
		}
		if o.kind != '-' {
			inB++
		}
	}
	fmt.Fprintf(out, "@@ -%s +%s @@\n", span(ops[0].atA, inA), span(ops[0].atB, inB))
	for _, o := range ops {
		fmt.Fprintf(out, "%c%s\n", o.kind, o.text)
		if o.incomplete {
			out.WriteString("\\ No newline at end of file\n")
		}
	}
}

func span(before, n int) string {
	if n == 0 {
		return fmt.Sprintf("%d,0", before)
	}
	return fmt.Sprintf("%d,%d", before+1, n)
}

func lines(s string) []string { return slices.Collect(strings.Lines(s)) }

// edits turns a into b. Texts whose changed parts are very long are replaced
// as a whole.
func edits(a, b []string) []edit {
	var ops []edit
	x, y := 0, 0
	add := func(kind byte, line string) {
		text, eol := strings.CutSuffix(line, "\n")
		ops = append(ops, edit{kind, text, x, y, !eol})
		if kind != '+' {
			x++
		}
		if kind != '-' {
			y++
		}
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	midA, midB := a[head:len(a)-tail], b[head:len(b)-tail]
	common := longest(midA, midB)
	for _, l := range a[:head] {
		add(' ', l)
	}
	for _, c := range append(common, [2]int{len(midA), len(midB)}) {
		for x-head < c[0] {
			add('-', midA[x-head])
		}
		for y-head < c[1] {
			add('+', midB[y-head])
		}
		if c[0] < len(midA) {
			add(' ', midA[c[0]])
		}
	}
	for _, l := range a[len(a)-tail:] {
		add(' ', l)
	}
	return ops
}

// longest is a longest common subsequence, as pairs of places.
func longest(a, b []string) [][2]int {
	const most = 4 << 20
	if len(a)*len(b) > most {
		return nil
	}
	n := make([][]int32, len(a)+1)
	for i := range n {
		n[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				n[i][j] = n[i+1][j+1] + 1
			} else {
				n[i][j] = max(n[i+1][j], n[i][j+1])
			}
		}
	}
	var pairs [][2]int
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			pairs = append(pairs, [2]int{i, j})
			i, j = i+1, j+1
		case n[i+1][j] >= n[i][j+1]:
			i++
		default:
			j++
		}
	}
	return pairs
}
