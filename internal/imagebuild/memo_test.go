package imagebuild

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"goldsmith/internal/filelist"
	"goldsmith/internal/tree"
)

func TestMemo(t *testing.T) {
	c := &cache{dir: t.TempDir()}
	runs := 0
	get := func(key string) string {
		t.Helper()
		b, err := c.memo(key, func() ([]byte, error) { runs++; return []byte("of " + key), nil })
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if a, b, again := get("a"), get("b"), get("a"); a != "of a" || b != "of b" || again != a || runs != 2 {
		t.Errorf("got %q, %q, %q in %d runs; want each once", a, b, again, runs)
	}
	kept, _ := filepath.Glob(filepath.Join(c.dir, resultsName, "*"))
	for _, path := range kept {
		if err := os.WriteFile(path, []byte("damaged"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if a := get("a"); a != "of a" || runs != 3 {
		t.Errorf("after damage: %q in %d runs; want it computed again", a, runs)
	}
	fault := errors.New("no")
	if _, err := c.memo("c", func() ([]byte, error) { return nil, fault }); err != fault {
		t.Errorf("error %v, want %v", err, fault)
	}
	if get("c") != "of c" {
		t.Error("an error was remembered")
	}
}

// Only files that were not touched since keep their digests.
func TestSums(t *testing.T) {
	c, dir := &cache{dir: t.TempDir()}, t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list := func() []filelist.File {
		t.Helper()
		tr, err := tree.FromDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		known, err := c.sums("x")
		if err != nil {
			t.Fatal(err)
		}
		files, err := filelist.List(t.Context(), tr, known)
		if err == nil {
			err = c.keepSums("x", tr, files)
		}
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	write("a", "one")
	write("b", "one")
	first := list()
	known, err := c.sums("x")
	if err != nil || len(known) != 2 || known["a"].SHA256 != first[1].SHA256 {
		t.Fatalf("kept %v, %v; want the digests of %v", known, err, first)
	}
	if other, err := c.sums("y"); len(other) != 0 || err != nil {
		t.Errorf("another image has %v, %v", other, err)
	}
	fi, err := os.Stat(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	write("b", "two")
	if err := os.Chtimes(filepath.Join(dir, "b"), fi.ModTime(), fi.ModTime()); err != nil {
		t.Fatal(err)
	}
	if second := list(); second[1].SHA256 != first[1].SHA256 || second[2].SHA256 == first[2].SHA256 {
		t.Errorf("digests %v, then %v; want b's to change", first, second)
	}
	if err := os.WriteFile(c.sumsPath("x"), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if known, err := c.sums("x"); len(known) != 0 || err != nil {
		t.Errorf("damaged: %v, %v; want nothing", known, err)
	}
}
