package template

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// tag is one tag of a text.
type tag struct {
	kind  byte // 'v' for {{key}}, '&' for {{{key}}} too, else its sigil
	key   span
	start int // where the blanks before it begin
	open  int // where its opening delimiter is
	end   int // after its closing delimiter
}

// span is a part of a text. A template has at most maxText bytes.
type span struct{ from, to int32 }

func (s span) of(text string) string { return text[s.from:s.to] }

func between(from, to int) span { return span{int32(from), int32(to)} }

// matcher finds tags. It takes for a tag exactly what pystache's regular
// expression does,
//
//	[ \t]* OPEN \s* ( = \s* (.+?) \s* = | { \s* (.+?) \s* } | [!>&/#^]? \s* ([\s\S]+?) ) \s* CLOSE
//
// in time that does not grow faster than the text: what is looked for ahead is
// remembered until the delimiters change.
type matcher struct {
	text             string
	opening, closing string
	close            ahead // the next closing delimiter
	equals, brace    ahead // the next '=' and '}' that a closing delimiter follows
}

// ahead is the first place from a point on that something is at; len(text)
// when there is none.
type ahead struct{ from, at int }

func (m *matcher) reset(text, opening, closing string) {
	*m = matcher{text: text, opening: opening, closing: closing}
	m.close, m.equals, m.brace = ahead{0, -1}, ahead{0, -1}, ahead{0, -1}
}

// next finds the first tag that begins at pos or later.
func (m *matcher) next(pos int) (tag, bool) {
	for at := pos; ; at++ {
		i := strings.Index(m.text[at:], m.opening)
		if i < 0 {
			return tag{}, false
		}
		at += i
		body := at + len(m.opening)
		if m.closeFrom(body) == len(m.text) {
			return tag{}, false
		}
		t, ok := m.match(body)
		if !ok {
			continue
		}
		t.start, t.open = at, at
		for t.start > pos && (m.text[t.start-1] == ' ' || m.text[t.start-1] == '\t') {
			t.start--
		}
		return t, true
	}
}

// match reads what follows an opening delimiter. A closing one follows.
func (m *matcher) match(body int) (tag, bool) {
	q := m.skip(body)
	c := m.text[q]
	switch c {
	case '=':
		if key, end, ok := m.bracketed(q+1, '=', &m.equals); ok {
			return tag{kind: '=', key: key, end: end}, true
		}
	case '{':
		if key, end, ok := m.bracketed(q+1, '}', &m.brace); ok {
			return tag{kind: '&', key: key, end: end}, true
		}
	}
	if isSigil(c) {
		if key, end, ok := m.key(q+1, m.skip(q+1)); ok {
			return tag{kind: c, key: key, end: end}, true
		}
	}
	key, end, ok := m.key(body, q)
	return tag{kind: 'v', key: key, end: end}, ok
}

func isSigil(c byte) bool { return strings.IndexByte("!>&/#^", c) >= 0 }

// key reads a key that begins at b, or, when only blanks between from and b
// can be one, the last of them.
func (m *matcher) key(from, b int) (key span, end int, ok bool) {
	if b < len(m.text) {
		_, n := utf8.DecodeRuneInString(m.text[b:])
		if k := m.closeFrom(b + n); k < len(m.text) {
			return between(b, max(b+n, m.back(k, b))), k + len(m.closing), true
		}
	}
	if b > from && strings.HasPrefix(m.text[b:], m.closing) {
		_, n := utf8.DecodeLastRuneInString(m.text[:b])
		return between(b-n, b), b + len(m.closing), true
	}
	return span{}, 0, false
}

// bracketed reads the inside of {{{key}}} or {{=a b=}} from after the bracket:
// one line, up to the closing bracket that a closing delimiter follows.
func (m *matcher) bracketed(from int, bracket byte, next *ahead) (key span, end int, ok bool) {
	b := m.skip(from)
	if b < len(m.text) {
		_, n := utf8.DecodeRuneInString(m.text[b:])
		k := m.find(next, b+n, func(k int) bool { return m.text[k] == bracket && m.closes(k+1) })
		if k < len(m.text) {
			e := max(b+n, m.back(k, b))
			if !strings.Contains(m.text[b:e], "\n") {
				return between(b, e), m.skip(k+1) + len(m.closing), true
			}
		}
	}
	// Nothing but blanks: the key is those from the last of a line on.
	if b < len(m.text) && m.text[b] == bracket && m.closes(b+1) {
		for e := b; e > from; {
			r, n := utf8.DecodeLastRuneInString(m.text[:e])
			if e -= n; r != '\n' {
				return between(e, e+n), m.skip(b+1) + len(m.closing), true
			}
		}
	}
	return span{}, 0, false
}

// closes says that a closing delimiter is at a place, blanks before it
// allowed.
func (m *matcher) closes(at int) bool { return strings.HasPrefix(m.text[m.skip(at):], m.closing) }

func (m *matcher) closeFrom(from int) int {
	if m.close.at < from || m.close.from > from {
		m.close = ahead{from, len(m.text)}
		if i := strings.Index(m.text[min(from, len(m.text)):], m.closing); i >= 0 {
			m.close.at = from + i
		}
	}
	return m.close.at
}

// find is the first place from a point on that is as wanted.
func (m *matcher) find(a *ahead, from int, wanted func(int) bool) int {
	if a.at < from || a.from > from {
		a.from, a.at = from, from
		for a.at < len(m.text) && !wanted(a.at) {
			a.at++
		}
	}
	return a.at
}

// skip passes white space.
func (m *matcher) skip(at int) int {
	for at < len(m.text) {
		r, n := utf8.DecodeRuneInString(m.text[at:])
		if !isSpace(r) {
			break
		}
		at += n
	}
	return at
}

// back is where the white space before a place begins, no earlier than least.
func (m *matcher) back(at, least int) int {
	return least + len(strings.TrimRightFunc(m.text[least:at], isSpace))
}

// isSpace is what Python's \s matches.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }
