package template

import "strings"

// Shape is what lines a template can make, of whatever metadata. It errs to one
// side: a line that can show a secret is always found.
type Shape struct {
	ops     []op
	starts  []int // ops that a line begins at
	loose   []int // ops after a value that is no secret, which may end with a line feed
	secrets bool  // some value is a secret
	mark    []uint32
	turn    uint32
	left    int // steps until everything counts as a secret
}

// op is a piece of a template. The next one follows it.
type op struct {
	kind   opKind
	text   string
	to     int // of a fork and a jump
	states int // number of the first of its states: one for each byte of a text
}

type opKind byte

const (
	opEnd opKind = iota // of a line, or of the template
	opText
	opValue
	opSecret
	opFork // on to the next one, or elsewhere
	opJump
)

// maxShapeSteps bounds the time for one shape, a few nanoseconds each.
const maxShapeSteps = 16 << 20

// Shape returns the template's. secret says whether a dotted key names a
// secret; it is asked for keys as they are, and below the sections around them.
// Of a partial nobody knows what it shows.
func (t *Template) Shape(secret func(key string) bool) *Shape {
	s := &Shape{starts: []int{0}, left: maxShapeSteps}
	s.nodes(t.nodes, nil, secret)
	s.add(op{kind: opEnd})
	last := &s.ops[len(s.ops)-1]
	s.mark = make([]uint32, 2*(last.states+1))
	return s
}

func (s *Shape) add(o op) int {
	if n := len(s.ops); n > 0 {
		o.states = s.ops[n-1].states + max(1, len(s.ops[n-1].text))
	}
	s.ops = append(s.ops, o)
	return len(s.ops) - 1
}

func (s *Shape) nodes(nodes []node, sections []string, secret func(string) bool) {
	for i := range nodes {
		n := &nodes[i]
		switch n.kind {
		case 0:
			s.text(n.text)
		case '#', '^':
			fork := s.add(op{kind: opFork})
			within := sections
			if n.kind == '#' {
				within = append(sections[:len(sections):len(sections)], n.text)
			}
			s.nodes(n.inner, within, secret)
			if n.kind == '#' {
				s.add(op{kind: opJump, to: fork})
			}
			s.ops[fork].to = len(s.ops)
		default:
			kind := opValue
			if n.kind == '>' || hidden(n.text, sections, secret) {
				kind, s.secrets = opSecret, true
			}
			if next := s.add(op{kind: kind}) + 1; kind == opValue {
				s.loose = append(s.loose, next)
			}
		}
	}
}

func (s *Shape) text(text string) {
	for i, piece := range strings.Split(text, "\n") {
		if i > 0 {
			s.starts = append(s.starts, s.add(op{kind: opEnd})+1)
		}
		if piece != "" {
			s.add(op{kind: opText, text: piece})
		}
	}
}

// hidden says that a key may be a secret's, whichever of the sections around
// it has it.
func hidden(key string, sections []string, secret func(string) bool) bool {
	if key != "." && secret(key) {
		return true
	}
	for from := range sections {
		for to := from + 1; to <= len(sections); to++ {
			path := strings.Join(sections[from:to], ".")
			if key != "." {
				path += "." + key
			}
			if secret(path) {
				return true
			}
		}
	}
	return false
}

// Secret says whether a line can show a secret, and from which byte on at the
// earliest. With all, every value counts as one.
func (s *Shape) Secret(line string, all bool) (from int, ok bool) {
	w := lineWalk{Shape: s, line: line, all: all, loosely: true}
	w.run()
	if s.left < 0 {
		return 0, true
	}
	for _, t := range w.flagged {
		if k := s.ops[t.op].kind; k == opEnd || k == opValue || k == opSecret {
			return t.entry, true
		}
	}
	return 0, false
}

// Plain says whether a line is one that the template makes without a secret:
// its own text, or text that tells the line and values. In a template with
// secrets that is a letter or digit before the first value, else any. The later
// lines of a secret do not begin so.
func (s *Shape) Plain(line string) bool {
	for _, textOnly := range []bool{true, false} {
		w := lineWalk{Shape: s, line: line, plain: true, textOnly: textOnly}
		w.run()
		lists := [][]thread{w.flagged}
		if textOnly {
			lists = append(lists, w.clean)
		}
		for _, list := range lists {
			for _, t := range list {
				if s.ops[t.op].kind == opEnd && s.left >= 0 {
					return true
				}
			}
		}
	}
	return false
}

// lineWalk follows all ways at once that a template can make a line.
type lineWalk struct {
	*Shape
	line     string
	all      bool // every value is a secret
	loosely  bool // lines may begin after a value, and end in one
	plain    bool // ways through a secret do not count; what is flagged has shown text that tells it
	textOnly bool // neither do ways through any value

	// The ways so far. Of those that are flagged, the ones with the earliest
	// entry are first.
	clean, flagged []thread
	pending        []thread
}

// thread is a way through the template.
type thread struct {
	op, at int // at: the next byte of a text
	flag   bool
	entry  int // where the line entered its first secret
}

func (w *lineWalk) run() {
	w.next()
	for _, op := range w.starts {
		w.reach(thread{op: op}, 0)
	}
	for i := 0; w.loosely && i < len(w.loose); i++ {
		w.reach(thread{op: w.loose[i]}, 0)
	}
	for i := range len(w.line) {
		flagged, clean := w.flagged, w.clean
		w.flagged, w.clean = nil, nil
		w.next()
		for _, t := range flagged {
			w.consume(t, i)
		}
		for _, t := range clean {
			w.consume(t, i)
		}
		if w.left < 0 || len(w.flagged)+len(w.clean) == 0 {
			return
		}
	}
}

// next begins a new place of the line, of which no state has been reached.
func (w *lineWalk) next() {
	if w.turn++; w.turn == 0 {
		clear(w.mark)
		w.turn = 1
	}
}

// consume takes the byte i of the line.
func (w *lineWalk) consume(t thread, i int) {
	switch o := &w.ops[t.op]; o.kind {
	case opText:
		c := w.line[i]
		if w.left--; o.text[t.at] != c {
			return
		}
		t.flag = t.flag || w.plain && (!w.secrets || tells(c))
		if t.at++; t.at == len(o.text) {
			t.op, t.at = t.op+1, 0
		}
		w.reach(t, i+1)
	case opValue, opSecret:
		w.reach(t, i+1)
	}
}

func tells(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// reach adds a way, and those that go on from it without taking a byte.
func (w *lineWalk) reach(t thread, place int) {
	w.pending = append(w.pending[:0], t)
	for len(w.pending) > 0 {
		t := w.pending[len(w.pending)-1]
		w.pending = w.pending[:len(w.pending)-1]
		o := &w.ops[t.op]
		if o.kind == opSecret || o.kind == opValue {
			if w.textOnly || w.plain && (o.kind == opSecret || w.secrets && !t.flag) {
				continue
			}
			if !w.plain && !t.flag && (w.all || o.kind == opSecret) {
				t.flag, t.entry = true, place
			}
		}
		state := 2 * (o.states + t.at)
		if t.flag {
			state++
		}
		if w.left--; w.mark[state] == w.turn {
			continue
		}
		w.mark[state] = w.turn
		switch o.kind {
		case opFork:
			w.follow(t, o.to)
			w.follow(t, t.op+1)
		case opJump:
			w.follow(t, o.to)
		case opValue, opSecret:
			w.keep(t)
			w.follow(t, t.op+1)
		default:
			w.keep(t)
		}
	}
}

func (w *lineWalk) follow(t thread, op int) {
	t.op, t.at = op, 0
	w.pending = append(w.pending, t)
}

func (w *lineWalk) keep(t thread) {
	if t.flag {
		w.flagged = append(w.flagged, t)
	} else {
		w.clean = append(w.clean, t)
	}
}
