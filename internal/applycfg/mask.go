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
	up    []upward // of each
	first [1 << 10]uint64
}

// upward are words that a word begins with; -1: none. With leaps over many of
// them, one of a length is found in a few steps (Myers, An applicative
// random-access stack, 1983).
type upward struct{ next, leap int32 }

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
	w.link()
	return w
}

// link says of each word which others it begins with.
func (w *words) link() {
	w.up = make([]upward, len(w.list))
	depth := make([]uint8, len(w.list)) // how many those are
	for i, v := range w.list {
		bit := start(v)
		w.first[bit/64] |= 1 << (bit % 64)
		j := w.shorter(int32(i)-1, v)
		w.up[i] = upward{j, j}
		if j < 0 {
			continue
		}
		depth[i] = depth[j] + 1
		// As long as the leap before it, if that is as long as the one before.
		if far := w.up[j].leap; far >= 0 && w.up[far].leap >= 0 &&
			depth[j]-depth[far] == depth[far]-depth[w.up[far].leap] {
			w.up[i].leap = w.up[far].leap
		}
	}
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
	if i = w.shorter(i, text); i < 0 {
		return 0
	}
	return len(w.list[i])
}

// shorter is the word itself or the longest that it begins with, if the text
// begins with it; -1 if there is none.
func (w *words) shorter(i int32, text string) int32 {
	if i < 0 || strings.HasPrefix(text, w.list[i]) {
		return i
	}
	most := common(w.list[i], text)
	for i >= 0 && len(w.list[i]) > most {
		if far := w.up[i].leap; far >= 0 && len(w.list[far]) > most {
			i = far
		} else {
			i = w.up[i].next
		}
	}
	return i
}

// common is how many bytes two texts have in common at their beginning.
func common(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 { // eight at once, as a compiler makes it of this
		if a[i:i+8] != b[i:i+8] {
			break
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
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
