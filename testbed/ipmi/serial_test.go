package ipmi

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A console that never stops fills no disk, and the file says where it ends.
func TestEndlessConsole(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	k := &ink{&recorder{most: 3 << 20}, f}
	for range 100 {
		if n, err := k.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	text, err := os.ReadFile(f.Name())
	if err != nil || len(text) > 3<<20+200 || strings.Count(string(text), "has printed 3 MiB: no more is kept") != 1 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
	if got := k.printed(); got != 100<<20 {
		t.Errorf("%d bytes were printed", got)
	}
}
