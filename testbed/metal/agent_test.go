package metal

import (
	"os"
	"path/filepath"
	"testing"
)

// A long log makes room for the next one, once.
func TestShorten(t *testing.T) {
	log := filepath.Join(t.TempDir(), "console.log")
	for i, c := range []struct{ text, now, before string }{
		{"", "", ""}, {"short", "short", ""}, {"long enough", "", "long enough"}, {"another that is", "", "another that is"},
	} {
		if c.text != "" {
			if err := os.WriteFile(log, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := shorten(log, 10); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		now, _ := os.ReadFile(log)
		before, _ := os.ReadFile(log + ".1")
		if string(now) != c.now || string(before) != c.before {
			t.Errorf("%d: %q, before %q", i, now, before)
		}
	}
}
