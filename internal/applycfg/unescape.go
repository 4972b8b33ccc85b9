package applycfg

import (
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxNested is how often JSON may be in JSON where words are looked for.
const maxNested = 3

// chunk is how much of a line is read at once, in bytes, so that a long one takes
// no more memory.
const chunk = 32 << 10

// layer is a part of a line: as it is, or what is left of it once JSON strings in
// it are read, and those in these.
type layer struct {
	text []byte
	at   []int // where in the line each byte comes from
	end  int   // where in the line the part ends
	done int   // bytes of text that are read
	last int   // behind the last byte of text that was an escape
	next *layer
}

func newLayer(levels int) *layer {
	if levels == 0 {
		return &layer{}
	}
	return &layer{next: newLayer(levels - 1)}
}

// find finds words in a line, in whatever way JSON writes them. Those that are
// there as they are are not looked for.
func (l *layer) find(line string, w *words, found func(from, to int)) {
	for from := 0; from < len(line); from += chunk {
		l.end = min(from+chunk, len(line))
		l.text = append(l.text, line[from:l.end]...)
		for i := from; i < l.end; i++ {
			l.at = append(l.at, i)
		}
		l.read(l.end == len(line), w, found)
	}
}

// read hands what is read to the next layer, which looks for words in it. The
// last of the text waits for what follows, unless it is all.
func (l *layer) read(all bool, w *words, found func(from, to int)) {
	text, limit := string(l.text), len(l.text)
	if !all {
		limit = max(0, limit-maxWord)
	}
	if n := l.next; n != nil {
		known := len(n.text)
		for l.done < limit {
			size := 1
			at := l.at[l.done]
			if text[l.done] != '\\' {
				n.text = append(n.text, text[l.done])
			} else if n.text, size = unescape(n.text, text[l.done:]); size > 1 {
				n.last = len(n.text)
			}
			for len(n.at) < len(n.text) {
				n.at = append(n.at, at)
			}
			l.done += size
		}
		n.end = l.place(l.done)
		n.look(max(0, known-maxWord), w, found)
		n.read(all, w, found)
	} else {
		l.done = limit
	}
	drop := min(l.done, limit)
	l.text = append(l.text[:0], l.text[drop:]...)
	l.at = append(l.at[:0], l.at[drop:]...)
	l.done, l.last = l.done-drop, max(0, l.last-drop)
}

// look finds words that begin at a byte of the text or behind it. Those that begin
// behind the last escape are in the layer before, too.
func (l *layer) look(from int, w *words, found func(from, to int)) {
	w.find(string(l.text), from, l.last, func(from, to int) { found(l.at[from], l.place(to)) })
}

// place is where in the line a byte of the text comes from.
func (l *layer) place(i int) int {
	if i < len(l.at) {
		return l.at[i]
	}
	return l.end
}

// unescape appends what an escape at the beginning of a text stands for, and says
// how long that is. What is none stands for itself. (RFC 8259, 7)
func unescape(b []byte, text string) ([]byte, int) {
	if len(text) < 2 {
		return append(b, text...), len(text)
	}
	if i := strings.IndexByte(`"\/bfnrt`, text[1]); i >= 0 {
		return append(b, "\"\\/\b\f\n\r\t"[i]), 2
	}
	r, ok := unit(text)
	if !ok {
		return append(b, '\\'), 1
	}
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(b, r), 6
	}
	if low, ok := unit(text[6:]); ok {
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return utf8.AppendRune(b, pair), 12
		}
	}
	return append(b, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0xbf, 0x80|byte(r)&0xbf), 6 // as package metadata has half a pair
}

// unit is the \uXXXX that a text begins with.
func unit(text string) (rune, bool) {
	if len(text) < 6 || text[:2] != `\u` {
		return 0, false
	}
	n, err := strconv.ParseUint(text[2:6], 16, 16)
	return rune(n), err == nil
}
