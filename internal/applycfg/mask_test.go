package applycfg

import (
	"slices"
	"strings"
	"testing"
)

// Words are masked wherever they are, also where they overlap, and nothing else
// is.
func FuzzMask(f *testing.F) {
	f.Add("abcdefghij abcdef\nefgh", "abcdefgh efghij efgh")
	f.Add("aaaaaaaaab", "aaaa aaaab")
	f.Add(strings.Repeat("x", 600)+strings.Repeat("xy", 400), strings.Repeat("x", 599)+" "+strings.Repeat("xy", 200))
	f.Fuzz(func(t *testing.T, text, list string) {
		text, all := strings.NewReplacer(hidden, "", `\`, "").Replace(text), strings.Fields(list)
		covered := make([]bool, len(text)+1)
		for _, w := range newWords(all).list {
			for i := range len(text) {
				if strings.HasPrefix(text[i:], w) {
					for j := range len(w) {
						covered[i+j] = true
					}
				}
			}
		}
		for _, w := range all {
			for i := range len(text) - len(w) + 1 {
				if len(w) >= minWord && text[i:i+len(w)] == w && slices.Contains(covered[i:i+len(w)], false) {
					t.Fatalf("%q is not all of %q", newWords(all).list, w)
				}
			}
		}
		var want strings.Builder
		for i := 0; i < len(text); {
			j := i
			for j < len(text) && covered[j] == covered[i] {
				j++
			}
			if covered[i] {
				want.WriteString(stars(text[i:j]))
			} else {
				want.WriteString(text[i:j])
			}
			i = j
		}
		if got := newWords(all).mask(text); got != want.String() {
			t.Errorf("%q without %q is %q; want %q", text, all, got, want.String())
		}
	})
}

// nestedWords are as many words that begin with each other as there can be.
func nestedWords() *words {
	all := []string{strings.Repeat("a", maxWord-1) + "b"}
	for n := minWord; n <= maxWord; n++ {
		all = append(all, strings.Repeat("a", n))
	}
	return newWords(all)
}

// Of many words that begin with each other, the right one is found in few steps.
func TestLeaps(t *testing.T) {
	w := nestedWords()
	last := int32(len(w.list) - 1)
	for most := range maxWord {
		want := most
		if most < minWord {
			want = 0
		}
		if got := w.at(strings.Repeat("a", most) + "c"); got != want {
			t.Errorf("of %d bytes %d are found", most, got)
		}
		steps := 0
		for i := last; i >= 0 && len(w.list[i]) > most; steps++ {
			if far := w.up[i].leap; far >= 0 && len(w.list[far]) > most {
				i = far
			} else {
				i = w.up[i].next
			}
		}
		if steps > 20 {
			t.Errorf("%d steps to %d bytes", steps, most)
		}
	}
}

// What is hard to find.
func BenchmarkMask(b *testing.B) {
	near := strings.Repeat(strings.Repeat("a", maxWord-1)+"c", 4000)
	for _, c := range []struct{ name, text string }{
		{"near", near}, {"escaped", `\n` + near},
		{"dense", strings.Repeat(strings.Repeat("a", maxWord-8)+strings.Repeat(`\`, 8), 4000)},
		{"elsewhere", strings.Repeat("a line that stays\n", 60_000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := nestedWords()
			b.SetBytes(int64(len(c.text)))
			for b.Loop() {
				w.mask(c.text)
			}
		})
	}
}
