package template

import (
	"fmt"
	"strings"
)

// Error says what is wrong with a template, and where.
type Error struct {
	Name    string // what the caller calls the template, a path mostly
	Line    int    // from 1
	Problem string
	Remedy  string // what to do about it, one line
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Name, e.Line, e.Problem) }

// What a template may have, so that a hostile one ends with an error. Nothing
// real comes near.
const (
	maxText    = 4 << 20 // bytes of a template
	maxNesting = 500     // sections inside each other
	maxChanges = 1000    // of delimiters
)

// Parse reads a template. name is for errors, which are [*Error].
func Parse(name, text string) (*Template, error) { return parse(name, text, false) }

// ParseOriginal reads a template as pystache does: of a section that is never
// closed only the inside is rendered, and the text before it is lost; a tag
// without a key takes the text up to the next closing delimiter for its key.
func ParseOriginal(name, text string) (*Template, error) { return parse(name, text, true) }

// node is a piece of a parsed template. All nodes of a template are in one
// list, a section before what is inside it.
type node struct {
	kind byte // 0 text, else the tag's
	line int32
	text span // the text, or the key
	// more is, of '#' and '^', the nodes inside; of '>', the blanks before a tag
	// that is alone on its line.
	more span
}

type parser struct {
	name, text string
	original   bool
	matcher    matcher
	changes    int
	counted    int // the line of textAt
	textAt     int
	nodes      []node
	open       []int // the sections that the parser is inside, innermost last
}

func parse(name, text string, original bool) (*Template, error) {
	p := &parser{name: name, text: text, original: original, counted: 1}
	if len(text) > maxText {
		return nil, p.fail(1, fmt.Sprintf("larger than %d MiB", maxText>>20), "copy large files in install.d instead")
	}
	p.matcher.reset(text, "{{", "}}")
	p.nodes = make([]node, 0, 2*strings.Count(text, "{{")+1)
	pos := 0
	for {
		t, ok := p.matcher.next(pos)
		if !ok {
			break
		}
		line := p.line(t.open)
		if !original {
			if err := p.check(&t, line); err != nil {
				return nil, err
			}
		}
		p.standalone(&t)
		if t.start > pos {
			p.nodes = append(p.nodes, node{text: between(pos, t.start)})
		}
		pos = t.end
		if err := p.take(&t, line); err != nil {
			return nil, err
		}
	}
	if pos < len(text) {
		p.nodes = append(p.nodes, node{text: between(pos, len(text))})
	}
	t := &Template{name: name, text: text, nodes: p.nodes, original: original}
	if len(p.open) > 0 {
		i := p.open[len(p.open)-1]
		if !original {
			n := &p.nodes[i]
			return nil, p.fail(int(n.line), fmt.Sprintf("section %s is never closed", p.tag(n.kind, n.text)),
				"add "+p.tag('/', n.text)+" where the section ends")
		}
		t.first = i + 1
	}
	return t, nil
}

// take adds a tag to the list.
func (p *parser) take(t *tag, line int) error {
	n := node{kind: t.kind, line: int32(line), text: t.key}
	switch t.kind {
	case '#', '^':
		if len(p.open) == maxNesting {
			return p.fail(line, fmt.Sprintf("sections nested more than %d deep", maxNesting),
				"close sections where they end")
		}
		p.open = append(p.open, len(p.nodes))
	case '/':
		return p.close(t.key, line)
	case '=':
		return p.delimiters(t.key.of(p.text), line)
	case '!':
		return nil
	case '>':
		n.more = between(t.start, t.open)
	}
	p.nodes = append(p.nodes, n)
	return nil
}

func (p *parser) close(key span, line int) error {
	if len(p.open) == 0 {
		return p.fail(line, fmt.Sprintf("%s closes a section that is not open", p.tag('/', key)),
			"remove it, or open the section with "+p.tag('#', key))
	}
	i := p.open[len(p.open)-1]
	n := &p.nodes[i]
	if n.text.of(p.text) != key.of(p.text) {
		return p.fail(line, fmt.Sprintf("%s closes a section, but the open one is %s from line %d",
			p.tag('/', key), p.tag(n.kind, n.text), n.line),
			"close the innermost section first, with "+p.tag('/', n.text))
	}
	n.more = between(i+1, len(p.nodes))
	p.open = p.open[:len(p.open)-1]
	return nil
}

// delimiters changes them. The original takes the first two words of more.
func (p *parser) delimiters(text string, line int) error {
	words := strings.FieldsFunc(text, isSpace)
	if len(words) < 2 || len(words) > 2 && !p.original {
		return p.fail(line, fmt.Sprintf("a delimiter tag needs two delimiters, it has %d", len(words)),
			"write it as {{=<% %>=}}")
	}
	if p.changes++; p.changes > maxChanges {
		return p.fail(line, fmt.Sprintf("delimiters change more than %d times", maxChanges), "change them once")
	}
	p.matcher.reset(p.text, words[0], words[1])
	return nil
}

func (p *parser) fail(line int, problem, remedy string) error {
	return &Error{p.name, line, problem, remedy}
}

func (p *parser) tag(kind byte, key span) string {
	return p.matcher.opening + string(kind) + key.of(p.text) + p.matcher.closing
}

// check refuses tags that the original takes for something that nobody means.
// An empty comment is one.
func (p *parser) check(t *tag, line int) error {
	m := &p.matcher
	body := m.skip(t.open + len(m.opening))
	c := p.text[body]
	switch {
	case strings.HasPrefix(p.text[body:], m.closing):
		return p.fail(line, "an empty tag "+m.opening+m.closing,
			"name the key, or write the text without two braces in a row")
	case c == '=' && t.kind != '=' || c == '{' && t.kind != '&':
		return p.fail(line, "a tag that is not closed: "+firstLine(p.text[t.open:]),
			"{{{key}}} takes three braces on both sides, {{=<% %>=}} two equals signs")
	case strings.TrimFunc(t.key.of(p.text), isSpace) == "":
		return p.fail(line, "a tag without a key: "+firstLine(p.text[t.open:t.end]), "name the key")
	case isSigil(c):
		if body = m.skip(body + 1); !strings.HasPrefix(p.text[body:], m.closing) {
			return nil
		}
		if c != '!' {
			return p.fail(line, "a tag without a key: "+p.tag(c, span{}), "name the key")
		}
		t.kind, t.key, t.end = '!', span{}, body+len(m.closing)
	}
	return nil
}

// standalone makes a tag that is not a value and is alone on its line take
// the whole line; another one takes nothing but itself. After the tag not even
// blanks may stand, as in the original.
func (p *parser) standalone(t *tag) {
	starts := t.start == 0 || isEOL(p.text[t.start-1])
	ends := t.end == len(p.text) || isEOL(p.text[t.end])
	if t.kind == 'v' || t.kind == '&' || !starts || !ends {
		t.start = t.open
		return
	}
	if strings.HasPrefix(p.text[t.end:], "\r") {
		t.end++
	}
	if strings.HasPrefix(p.text[t.end:], "\n") {
		t.end++
	}
}

func isEOL(c byte) bool { return c == '\n' || c == '\r' }

// line counts on from where it last was.
func (p *parser) line(at int) int {
	p.counted += strings.Count(p.text[p.textAt:at], "\n")
	p.textAt = at
	return p.counted
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}
