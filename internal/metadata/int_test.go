package metadata

import (
	"bufio"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"unicode"

	"goldsmith/internal/testenv"
)

// Int is Python's int, for every digit and blank and some words of them.
func TestIntIsPythons(t *testing.T) {
	testenv.Need(t, "python3")
	words := []string{"", "0", "1", "-1", "+1", "--1", "+-1", "1_0", "_1", "1_", "1__0", "- 1", " 1", "1 ", "\t12\n", "0x1", "1.0", "1e3", "007", "-0", "+",
		"-", "_", "\u0661", "\u0661_\u0662", "\u22121", "\u00b2", "\u2168", "1\x002", "9999999999", "-9999999999999999999999", "+_1", "\u200b1"}
	for r := rune(0x80); r < 0x20000; r++ {
		if unicode.Is(unicode.Nd, r) || unicode.IsSpace(r) || r < 0x100 {
			words = append(words, string(r), string(r)+"1")
		}
	}
	for r := rune(0); r < 0x30; r++ {
		words = append(words, string(r)+"2", "2"+string(r))
	}
	var in strings.Builder
	for _, w := range words {
		for _, r := range w {
			fmt.Fprintf(&in, "%d ", r)
		}
		in.WriteString("\n")
	}
	cmd := exec.Command("python3", "-c", `
import sys, unicodedata
for line in sys.stdin:
    word = "".join(chr(int(c)) for c in line.split())
    try: n = max(min(int(word), 2147483647), -2147483647)
    except ValueError: n = "none"
    if any(unicodedata.category(c) == "Cn" for c in word): n = "unknown"
    print(n)
`)
	cmd.Stdin = strings.NewReader(in.String())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(strings.NewReader(string(out)))
	for _, w := range words {
		if !lines.Scan() {
			t.Fatal("too few answers")
		}
		got := "none"
		if n, ok := Int(w); ok {
			got = fmt.Sprint(n)
		}
		if want := lines.Text(); want != got && want != "unknown" { // a character of a later Unicode
			t.Errorf("Int(%q) = %s; want %s", w, got, want)
		}
	}
}
