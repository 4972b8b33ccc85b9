package imagebuild

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"goldsmith/internal/tree"
)

// Outputs and manifest appear together or not at all.
func TestOutputsAppearTogether(t *testing.T) {
	out := t.TempDir()
	p, _ := progress(t)
	b := &build{
		def: &Definition{Name: "t", Version: "1"}, work: &work{dir: t.TempDir()}, cache: &cache{dir: t.TempDir()}, timeline: newTimeline(), epoch: time.Unix(1e9, 0), outputs: []string{"erofs", "raw"}, progress: p,
		opts: Options{Out: out, Bin: filepath.Join(out, "nothing here")}, // so that raw fails
	}
	old := []string{"t.erofs", "t.manifest.json", "t.raw"}
	for _, name := range old {
		if err := os.WriteFile(filepath.Join(out, name), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.writeOutputs(t.Context(), tree.New()); err == nil {
		t.Fatal("a disk without imginit was written")
	}
	for _, name := range old {
		if got, _ := os.ReadFile(filepath.Join(out, name)); string(got) != "old" {
			t.Errorf("%s is new", name)
		}
	}
	b.outputs = []string{"erofs"}
	res, err := b.writeOutputs(t.Context(), tree.New())
	if err != nil || len(res.Outputs) != 1 {
		t.Fatal(res, err)
	}
	for _, name := range old {
		if got, _ := os.ReadFile(filepath.Join(out, name)); (string(got) == "old") != (name == "t.raw") {
			t.Errorf("%s: %.40q", name, got)
		}
	}
	entries, _ := os.ReadDir(out)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := slices.Sorted(slices.Values(append(old, "t.cdx.json", "t.files", "t.report.html", "t.spdx.json")))
	if !slices.Equal(names, want) {
		t.Errorf("in the directory: %q", names)
	}
}

// A log is never written through what lies in its place.
func TestBuildLog(t *testing.T) {
	dir := t.TempDir()
	precious, path := filepath.Join(dir, "precious"), filepath.Join(dir, "t.build.log")
	for name, place := range map[string]func() error{
		"symbolic link": func() error { return os.Symlink(precious, path) },
		"hard link":     func() error { return os.Link(precious, path) },
		"dangling":      func() error { return os.Symlink(filepath.Join(dir, "nowhere"), path) },
		"old log":       func() error { return os.WriteFile(path, []byte("old"), 0o600) },
		"nothing":       func() error { return nil },
	} {
		if err := os.WriteFile(precious, []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := place(); err != nil {
			t.Fatal(err)
		}
		f, err := newLog(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := f.Write([]byte("log")); err != nil {
			t.Error(err)
		}
		_ = f.Close()
		got, _ := os.ReadFile(path)
		kept, _ := os.ReadFile(precious)
		if string(got) != "log" || string(kept) != "precious" {
			t.Errorf("%s: the log holds %q, the other file %q", name, got, kept)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a file was made where a link led")
	}
	if _, err := newLog(dir); err == nil {
		t.Error("a log in place of a directory")
	}
}
