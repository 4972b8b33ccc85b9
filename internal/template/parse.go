package template

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error says what is wrong with a template, and where.
type Error struct {
	Name    string // what the caller calls the template, a path mostly
	Line    int    // from 1
	Problem string
	Remedy  string // what to do about it, one line
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Name, e.Line, e.Problem) }

// Parse reads a template. name is for errors, which are [*Error].
func Parse(name, text string) (*Template, error) {
	p := &parser{name: name, text: text, open: "{{", close: "}}"}
	return p.parse()
}

// node is a piece of a parsed template.
type node struct {
	kind   byte   // 0 text, '&' value, '#' section, '^' inverted section, '>' partial
	text   string // the text, or the key
	indent string // '>': the blanks before a tag that is alone on its line
	line   int
	inner  []node
}

type parser struct {
	name, text  string
	open, close string // the delimiters
	pos         int    // where the text not yet taken begins
	counted     int    // the line of textAt
	textAt      int
}

// section is one that is open while the parser is inside it.
type section struct {
	head  node
	outer []node // what stood before it
}

func (p *parser) parse() (*Template, error) {
	var nodes []node
	var open []section
	for {
		t, err := p.next()
		if err != nil {
			return nil, err
		}
		if t == nil {
			break
		}
		if t.start > p.pos {
			nodes = append(nodes, node{text: p.text[p.pos:t.start]})
		}
		p.pos = t.end
		n := node{kind: t.kind, text: t.key, indent: t.indent, line: t.line}
		switch t.kind {
		case '#', '^':
			open, nodes = append(open, section{n, nodes}), nil
		case '/':
			if len(open) == 0 {
				return nil, p.fail(t.line, fmt.Sprintf("%s closes a section that is not open", p.tag('/', t.key)),
					"remove it, or open the section with "+p.tag('#', t.key))
			}
			s := open[len(open)-1]
			if s.head.text != t.key {
				return nil, p.fail(t.line, fmt.Sprintf("%s closes a section, but the open one is %s from line %d",
					p.tag('/', t.key), p.tag(s.head.kind, s.head.text), s.head.line),
					"close the innermost section first, with "+p.tag('/', s.head.text))
			}
			s.head.inner = nodes
			open, nodes = open[:len(open)-1], append(s.outer, s.head)
		case '=':
			if err := p.delimiters(t); err != nil {
				return nil, err
			}
		case '!':
		default:
			nodes = append(nodes, n)
		}
	}
	if len(open) > 0 {
		// The original renders the inner text alone and loses the rest.
		h := open[len(open)-1].head
		return nil, p.fail(h.line, fmt.Sprintf("section %s is never closed", p.tag(h.kind, h.text)),
			"add "+p.tag('/', h.text)+" where the section ends")
	}
	if p.pos < len(p.text) {
		nodes = append(nodes, node{text: p.text[p.pos:]})
	}
	return &Template{name: p.name, nodes: nodes}, nil
}

func (p *parser) fail(line int, problem, remedy string) error {
	return &Error{p.name, line, problem, remedy}
}

func (p *parser) tag(kind byte, key string) string {
	return p.open + string(kind) + key + p.close
}

func (p *parser) delimiters(t *tag) error {
	words := strings.Fields(t.key)
	if len(words) != 2 {
		return p.fail(t.line, fmt.Sprintf("a delimiter tag needs two delimiters, it has %d", len(words)),
			"write it as {{=<% %>=}}")
	}
	p.open, p.close = words[0], words[1]
	return nil
}

// tag is one tag of the text.
type tag struct {
	kind       byte // '&' for all values
	key        string
	indent     string
	start, end int // what it takes from the text, its whole line if it is alone there
	line       int
}

// next finds the tag after pos, nil at the end. Something that begins like a
// tag and never ends is text.
func (p *parser) next() (*tag, error) {
	i := strings.Index(p.text[p.pos:], p.open)
	if i < 0 {
		return nil, nil
	}
	at := p.pos + i
	line := p.line(at)
	t := &tag{kind: '&', start: at, line: line}
	body := p.skip(at + len(p.open))
	if !strings.Contains(p.text[body:], p.close) {
		return nil, nil
	}
	var ok bool
	switch c := p.text[body]; {
	case strings.HasPrefix(p.text[body:], p.close):
		return nil, p.fail(line, "an empty tag "+p.open+p.close, "name the key, or write the text without two braces in a row")
	case c == '=':
		t.kind = '='
		t.key, t.end, ok = p.until(body+1, "=")
	case c == '{':
		t.key, t.end, ok = p.until(body+1, "}")
	default:
		if strings.IndexByte("!>&/#^", c) >= 0 {
			t.kind, body = c, p.skip(body+1)
			// An empty comment is one; the original takes what follows for it.
			if strings.HasPrefix(p.text[body:], p.close) && c != '!' {
				return nil, p.fail(line, "a tag without a key: "+p.tag(c, ""), "name the key")
			}
		}
		n := strings.Index(p.text[body:], p.close)
		if ok = n >= 0; ok {
			t.key, t.end = trimRight(p.text[body:body+n]), body+n+len(p.close)
		}
	}
	if !ok {
		return nil, p.fail(line, "a tag that is not closed: "+firstLine(p.text[at:]),
			"{{{key}}} takes three braces on both sides, {{=<% %>=}} two equals signs")
	}
	p.standalone(t)
	return t, nil
}

// until finds the end of a tag such as {{{key}}} or {{=a b=}}: the closing
// character and the delimiter, blanks allowed between. The key is on one line.
func (p *parser) until(from int, closing string) (key string, end int, ok bool) {
	from = p.skip(from)
	for at := from; ; at++ {
		i := strings.Index(p.text[at:], closing)
		if i < 0 {
			return "", 0, false
		}
		at += i
		key := trimRight(p.text[from:at])
		if strings.Contains(key, "\n") {
			return "", 0, false
		}
		if after := p.skip(at + len(closing)); key != "" && strings.HasPrefix(p.text[after:], p.close) {
			return key, after + len(p.close), true
		}
	}
}

// standalone makes a tag that is not a value and is alone on its line take
// the whole line. Blanks may stand before it; after it nothing may, not even
// blanks, as in the original.
func (p *parser) standalone(t *tag) {
	if t.kind == '&' {
		return
	}
	begin := t.start
	for begin > p.pos && (p.text[begin-1] == ' ' || p.text[begin-1] == '\t') {
		begin--
	}
	if begin > 0 && !isEOL(p.text[begin-1]) || t.end < len(p.text) && !isEOL(p.text[t.end]) {
		return
	}
	t.indent, t.start = p.text[begin:t.start], begin
	if strings.HasPrefix(p.text[t.end:], "\r") {
		t.end++
	}
	if strings.HasPrefix(p.text[t.end:], "\n") {
		t.end++
	}
}

func isEOL(c byte) bool { return c == '\n' || c == '\r' }

// skip passes white space.
func (p *parser) skip(at int) int {
	for at < len(p.text) {
		r, n := utf8.DecodeRuneInString(p.text[at:])
		if !isSpace(r) {
			break
		}
		at += n
	}
	return at
}

// isSpace is what Python's \s matches.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func trimRight(s string) string { return strings.TrimRightFunc(s, isSpace) }

// line counts on from where it last was.
func (p *parser) line(at int) int {
	if p.counted == 0 {
		p.counted = 1
	}
	p.counted += strings.Count(p.text[p.textAt:at], "\n")
	p.textAt = at
	return p.counted
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return s
}
