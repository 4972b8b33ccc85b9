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

// mask masks all words in a text. Those that overlap or touch are masked as one.
func (w *words) mask(text string) string {
	if len(w.list) == 0 {
		return text
	}
	var b strings.Builder
	shown, from, end := 0, -1, -1 // up to where it is done; a place that is to be masked
	for i := 0; i+minWord <= len(text); i++ {
		if bit := start(text[i:]); w.first[bit/64]&(1<<(bit%64)) == 0 {
			continue
		}
		n := w.at(text[i:])
		if n == 0 {
			continue
		}
		if i > end {
			if end >= 0 {
				b.WriteString(text[shown:from])
				b.WriteString(stars(text[from:end]))
				shown = end
			}
			from = i
		}
		end = max(end, i+n)
	}
	if end < 0 {
		return text
	}
	b.WriteString(text[shown:from])
	b.WriteString(stars(text[from:end]))
	b.WriteString(text[end:])
	return b.String()
}
