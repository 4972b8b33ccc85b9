package applycfg

import (
	"slices"
	"sort"
	"strings"
)

// hidden stands for a value that is not shown.
const hidden = "****"

// stars masks every line of a text that is not empty.
func stars(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		bare, eol := strings.CutSuffix(l, "\n")
		if bare != "" {
			b.WriteString(hidden)
		}
		if eol {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// Bounds of words, in bytes. Shorter ones would be found everywhere. Longer
// ones are found by their pieces, so that the time a text takes does not depend
// on how long they are.
const (
	minWord = 4
	maxWord = 256
)

// words finds words in texts.
type words struct {
	list  []string // sorted
	up    []int32  // the longest other word that the word begins with; -1: none
	first [1 << 10]uint64
}

// newWords takes words of minWord bytes or more.
func newWords(all []string) *words {
	w := &words{}
	for _, v := range all {
		if len(v) < minWord {
			continue
		}
		for ; len(v) > maxWord; v = v[min(maxWord, len(v)-maxWord):] {
			w.list = append(w.list, v[:maxWord])
		}
		w.list = append(w.list, v)
	}
	slices.Sort(w.list)
	w.list = slices.Compact(w.list)
	w.up = make([]int32, len(w.list))
	for i, v := range w.list {
		bit := start(v)
		w.first[bit/64] |= 1 << (bit % 64)
		j := int32(i) - 1
		for j >= 0 && !strings.HasPrefix(v, w.list[j]) {
			j = w.up[j]
		}
		w.up[i] = j
	}
	return w
}

// start is a number of a text's first minWord bytes, below 1<<16.
func start(text string) uint32 {
	n := uint32(text[0]) | uint32(text[1])<<8 | uint32(text[2])<<16 | uint32(text[3])<<24
	return n * 0x9E3779B1 >> 16
}

// at is the length of the longest word that a text begins with.
func (w *words) at(text string) int {
	// That is the last word that does not come after the text, or one that it
	// begins with.
	i := int32(sort.Search(len(w.list), func(i int) bool { return w.list[i] > text })) - 1
	for ; i >= 0; i = w.up[i] {
		if strings.HasPrefix(text, w.list[i]) {
			return len(w.list[i])
		}
	}
	return 0
}

// find finds words in a text, which begin in a part of it, and says of each
// where it begins and ends.
func (w *words) find(text string, from, to int, found func(from, to int)) {
	for i := from; i < to && i+minWord <= len(text); i++ {
		if bit := start(text[i:]); w.first[bit/64]&(1<<(bit%64)) == 0 {
			continue
		}
		if n := w.at(text[i:]); n > 0 {
			found(i, i+n)
		}
	}
}

// mask masks all words in a text, also in JSON in it. Those that overlap or touch
// are masked as one.
func (w *words) mask(text string) string {
	if len(w.list) == 0 {
		return text
	}
	c := &cover{size: len(text)}
	w.find(text, 0, len(text), c.add)
	if strings.Contains(text, `\`) {
		l, at := newLayer(maxNested), 0
		for line := range strings.Lines(text) { // no string of JSON goes beyond one
			if strings.Contains(line, `\`) {
				l.find(line, w, func(from, to int) { c.add(at+from, at+to) })
			}
			at += len(line)
		}
	}
	if c.bits == nil {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		from, covered := i, c.has(i)
		for i < len(text) && c.has(i) == covered {
			i++
		}
		if covered {
			b.WriteString(stars(text[from:i]))
		} else {
			b.WriteString(text[from:i])
		}
	}
	return b.String()
}

// cover is a set of places in a text.
type cover struct {
	size     int
	bits     []uint64 // nil: no place
	from, to int      // what was added last
}

func (c *cover) add(from, to int) {
	if c.bits == nil {
		c.bits = make([]uint64, (c.size+63)/64)
	}
	first := from
	if from >= c.from && from <= c.to {
		first, from = c.to, c.from
	}
	for i := first; i < to; i++ {
		c.bits[i/64] |= 1 << (i % 64)
	}
	c.from, c.to = from, max(first, to)
}

func (c *cover) has(i int) bool { return c.bits[i/64]&(1<<(i%64)) != 0 }
