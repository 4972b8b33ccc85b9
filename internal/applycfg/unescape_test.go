package applycfg

import (
	"strings"
	"testing"
)

// A secret is not shown in whatever way JSON writes it, however long the line is;
// what is around it is, and what is no escape stays.
func TestHidesEscapes(t *testing.T) {
	secrets := Templates{}.FindSecrets(doc(t, `{"token": "a&b<c>/d\u00e9\ud83d\ude00\ud800\"x"}`))
	for _, text := range []string{
		`a\u0026b\u003cc\u003e/d\u00e9\ud83d\ude00\ud800\"x`,
		`a\u0026b\u003Cc\u003E\/d\u00E9\uD83D\uDE00\uD800\u0022x`,
		`\u0061&b<c>\/d\u00E9\ud83d\ude00\ud800\"\u0078`,
	} {
		for range 3 { // as docs/templates.md says
			for _, around := range []string{`"`, `\`, `\ud8`, `\u00e9`, `\x`,
				strings.Repeat("\\n", 3*chunk/2), strings.Repeat(`\\"`, chunk/3)} {
				if got := secrets.hide(around + " " + text + " " + around); got != around+" "+hidden+" "+around {
					t.Errorf("%.200s is shown as %.200s", text, got)
				}
			}
			text = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
		}
	}
	for n := range 300 { // wherever parts of the line end
		text := strings.Repeat(".", chunk-n) + `a\u0026b\u003Cc\u003E\/d\u00E9\uD83D\uDE00\uD800\u0022x`
		if got := secrets.hide(text + text); strings.Contains(got, "x") || strings.Contains(got, "a") {
			t.Fatalf("%d before the end of a part it is shown", n)
		}
	}
}

// Deeper is not looked, so that the time is bounded.
func TestNested(t *testing.T) {
	w := newWords([]string{`se"cret`})
	text := `se"cret`
	for range 4 {
		if got := w.mask(text); strings.Contains(got, "cret") {
			t.Errorf("%s is shown as %s", text, got)
		}
		text = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
	}
	if got := w.mask(text); got != text {
		t.Errorf("%s is shown as %s", text, got)
	}
}

// All escapes of JSON stand for what it says, also the last of a text.
func TestEscapes(t *testing.T) {
	for text, secret := range map[string]string{
		`abcd\"`: `abcd"`, `abcd\\`: `abcd\`, `abcd\/`: "abcd/", `abcd\b`: "abcd\b", `abcd\f`: "abcd\f", `abcd\n`: "abcd\n", `abcd\r`: "abcd\r", `abcd\t`: "abcd\t", `abcd\u00e9`: "abcdé",
		`abcd\ud83d\ude00`: "abcd😀",
	} {
		for _, after := range []string{"", `"`} {
			if got := newWords([]string{secret}).mask(text + after); got != hidden+after {
				t.Errorf("%s is shown as %s", text+after, got)
			}
		}
	}
}

// Wherever parts of a long line end, a word is found that is only in one layer,
// also where it begins within an escape of that layer.
func TestLayersAtEdges(t *testing.T) {
	for _, c := range []struct{ text, word, want string }{
		{`wo\"rd`, `wo"rd`, hidden},
		{`wo\\\"rd`, `wo"rd`, hidden},
		{`wo\\\\\\\"rd`, `wo"rd`, hidden},
		{`\"word`, `"word`, hidden},
		{`\\nwo\"rd`, `nwo"rd`, `\\` + hidden},
		{`\\\\nwo\\\"rd`, `nwo"rd`, `\\\\` + hidden},
		{`\\u00e9wo\"rd`, `9wo"rd`, `\\u00e` + hidden},
		{`\\ud83d\\ude00wo\"rd`, `0wo"rd`, `\\ud83d\\ude0` + hidden},
	} {
		for n := range 2 * 4 * 30 {
			long := strings.Repeat("w", n%2*(maxWord-len(c.word)))
			n = n/60*maxWord + n%60/2 // the end of a part of each layer
			before, after := strings.Repeat(".", chunk-n), strings.Repeat(".", 4*maxWord)
			if got := newWords([]string{c.word + long}).mask(before + c.text + long + after); got != before+c.want+after {
				t.Fatalf("%d before the end of a part, %s is shown as %s", n, c.text+long, strings.Trim(got, "."))
			}
		}
	}
}

// A text is not searched again behind its last escape.
func TestLayersWithoutEscapes(t *testing.T) {
	found := 0
	newLayer(maxNested).find(`\n`+strings.Repeat("secret", 10*chunk), newWords([]string{"secret"}),
		func(int, int) { found++ })
	if found > maxWord {
		t.Errorf("%d words are found again", found)
	}
}
