package step

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A log is cut once, where it is full, and says so; who writes is not told.
func TestBoundedLog(t *testing.T) {
	var b bytes.Buffer
	l := &boundedLog{w: &b, left: 10}
	for _, text := range []string{"hello ", "world", "", "more"} {
		if n, err := l.Write([]byte(text)); n != len(text) || err != nil {
			t.Errorf("Write(%q) = %d, %v", text, n, err)
		}
	}
	if got := b.String(); !strings.HasPrefix(got, "hello worl\n[the log is cut here") || strings.Count(got, "\n") != 2 {
		t.Errorf("it has %q", got)
	}
}

// Of too many bytes the largest files go; a log is not among them, nor is what a
// link leads to.
func TestShrink(t *testing.T) {
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "other")
	for name, size := range map[string]int64{"log": 900, "console.log": 300, "tests/a/core": 600, "junit.xml": 50} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var deep string
	if err := os.MkdirAll(filepath.Join(dir, "1/2/3/4/5"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"1/2/3/4/kept", "1/2/3/4/5/deep"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := shrink(dir, 1<<20, func(format string, args ...any) { deep += fmt.Sprintf(format, args...) }); err != nil || deep != "1/2/3/4/5/deep is not kept: it lies below more than 4 directories" {
		t.Errorf("%q, %v", deep, err)
	}
	if err := os.WriteFile(other, make([]byte, 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		limit int64
		want  string
	}{{950, ""}, {949, "tests/a/core"}, {349, "console.log"}} {
		var said string
		err := shrink(dir, c.limit, func(format string, args ...any) { said += fmt.Sprintf(format, args...) })
		if err != nil || (c.want == "") != (said == "") || !strings.HasPrefix(said, c.want) {
			t.Errorf("limit %d: %q, %v", c.limit, said, err)
		}
	}
	for _, file := range []string{"log", "junit.xml", "link", "1/2/3/4/kept"} {
		if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
			t.Error(err)
		}
	}
}
