package layer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
	"goldsmith/internal/testenv"
)

func key(n int) string { return fmt.Sprintf("%032x", n) }

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "layers"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// put makes a layer of some files.
func put(t *testing.T, s *Store, m Meta, files map[string]string) *Layer {
	t.Helper()
	work := filepath.Join(s.dir, "..", "work-"+m.Key)
	for name, text := range files {
		p := filepath.Join(work, diffDir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(work, diffDir), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := s.Put(t.Context(), work, m)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func closeLayer(t *testing.T, l *Layer) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPutAndGet(t *testing.T) {
	s := newStore(t)
	if _, err := s.Get(t.Context(), key(1)); !os.IsNotExist(err) {
		t.Errorf("Get of nothing: %v", err)
	}
	l := put(t, s, Meta{Key: key(1), Step: "install.d/10-x", Element: "x", Below: []string{key(7)}, Took: time.Second},
		map[string]string{"mnt/etc/a": "one", "mnt/b": "two"})
	if l.Files != 4 || l.Size != 6 || l.Empty() {
		t.Errorf("Put: %+v; want 4 names and 6 bytes", l.Meta)
	}
	closeLayer(t, l)
	got, err := s.Get(t.Context(), key(1))
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if got.Step != "install.d/10-x" || got.Element != "x" || len(got.Below) != 1 || got.Took != time.Second {
		t.Errorf("Get: %+v", got.Meta)
	}
	if b, err := os.ReadFile(filepath.Join(got.Diff(), "mnt/etc/a")); string(b) != "one" {
		t.Errorf("the layer holds %q, %v", b, err)
	}
	if _, err := s.Put(t.Context(), t.TempDir(), Meta{Key: "../x"}); err == nil {
		t.Error("a key that is a path was taken")
	}
	if l := put(t, s, Meta{Key: key(2)}, nil); !l.Empty() {
		t.Error("a layer of nothing is not empty")
	} else {
		closeLayer(t, l)
	}
}

// Whoever is second gets what the first one made.
func TestPutTwice(t *testing.T) {
	s := newStore(t)
	first := put(t, s, Meta{Key: key(1)}, map[string]string{"a": "first"})
	second := put(t, s, Meta{Key: key(1)}, map[string]string{"a": "second"})
	if b, _ := os.ReadFile(filepath.Join(second.Diff(), "a")); string(b) != "first" {
		t.Errorf("the second one's layer holds %q", b)
	}
	closeLayer(t, second)
	closeLayer(t, first)
}

// Every kind of damage is found, and the layer is gone then.
func TestDamage(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"content":     func(d string) error { return os.WriteFile(filepath.Join(d, "diff/a"), []byte("xyz"), 0o644) },
		"longer":      func(d string) error { return os.WriteFile(filepath.Join(d, "diff/a"), []byte("onex"), 0o644) },
		"mode":        func(d string) error { return os.Chmod(filepath.Join(d, "diff/a"), 0o755) },
		"gone":        func(d string) error { return os.Remove(filepath.Join(d, "diff/a")) },
		"more":        func(d string) error { return os.WriteFile(filepath.Join(d, "diff/z"), nil, 0o644) },
		"owner":       func(d string) error { return os.Chown(filepath.Join(d, "diff/a"), 7, 7) },
		"no diff":     func(d string) error { return os.RemoveAll(filepath.Join(d, "diff")) },
		"description": func(d string) error { return os.WriteFile(filepath.Join(d, metaFile), []byte("{"), 0o644) },
		"empty":       func(d string) error { return os.Truncate(filepath.Join(d, metaFile), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "owner" {
				testenv.NeedRoot(t)
			}
			s := newStore(t)
			l := put(t, s, Meta{Key: key(1)}, map[string]string{"a": "one", "b": "two"})
			closeLayer(t, l)
			if err := damage(l.dir); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), key(1)); !errors.Is(err, ErrDamaged) {
				t.Errorf("Get = %v; want %v", err, ErrDamaged)
			}
			if s.Has(key(1)) {
				t.Error("the layer is still there")
			}
			closeLayer(t, put(t, s, Meta{Key: key(1)}, map[string]string{"a": "one"}))
		})
	}
}

// A hole is not read, and data behind it counts.
func TestHoles(t *testing.T) {
	s := newStore(t)
	work := filepath.Join(s.dir, "..", "work")
	large := filepath.Join(work, diffDir, "large")
	if err := os.MkdirAll(filepath.Dir(large), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, 1<<42); err != nil {
		t.Fatal(err)
	}
	l, err := s.Put(t.Context(), work, Meta{Key: key(1)})
	if err != nil {
		t.Fatal(err)
	}
	closeLayer(t, l)
	if l.Size == 0 || l.Size > 1<<20 {
		t.Errorf("the layer has %d bytes", l.Size)
	}
	f, err := os.OpenFile(filepath.Join(l.Diff(), "large"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("y"), 1<<41); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), key(1)); !errors.Is(err, ErrDamaged) {
		t.Errorf("Get = %v; want %v", err, ErrDamaged)
	}
}

// A cache that was copied is checked by its content, once.
func TestCopied(t *testing.T) {
	testenv.Need(t, "cp")
	s := newStore(t)
	closeLayer(t, put(t, s, Meta{Key: key(1)}, map[string]string{"a": "one", "d/b": "two"}))
	other := filepath.Join(t.TempDir(), "copy")
	if err := (command.Exec{Args: []string{"cp", "-a", s.dir, other}}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := Open(other)
	if err != nil {
		t.Fatal(err)
	}
	before, err := readMeta(filepath.Join(other, key(1)))
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Get(t.Context(), key(1))
	if err != nil {
		t.Fatal(err)
	}
	closeLayer(t, l)
	if after, err := readMeta(filepath.Join(other, key(1))); err != nil || after.Stamp == before.Stamp {
		t.Errorf("the stamp is as before, %v", err)
	}
}

// What was used last stays, with all that it lies on.
func TestPrune(t *testing.T) {
	s := newStore(t)
	text := strings.Repeat("x", 1000)
	for i, below := range [][]string{nil, {key(0)}, {key(0), key(1)}, {key(0)}} {
		closeLayer(t, put(t, s, Meta{Key: key(i), Below: below}, map[string]string{"a": text}))
	}
	for i, at := range []int{40, 10, 5, 40} { // 3 was used last, and 0 with it
		when := time.Unix(int64(at), 0)
		if err := os.Chtimes(filepath.Join(s.dir, key(i), metaFile), when, when); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.dir, trashPrefix+"x"), 0o755); err != nil {
		t.Fatal(err)
	}
	prune := func(keep int64, want ...int) {
		t.Helper()
		removed, err := s.Prune(keep)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range removed {
			got = append(got, m.Key)
		}
		var keys []string
		for _, n := range want {
			keys = append(keys, key(n))
		}
		if fmt.Sprint(got) != fmt.Sprint(keys) {
			t.Errorf("Prune(%d) removed %v; want %v", keep, got, keys)
		}
	}
	prune(4000)
	if left, _ := filepath.Glob(filepath.Join(s.dir, trashPrefix+"*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	prune(3500, 2)
	l, err := s.Get(t.Context(), key(1)) // now 1 is the newest, and in use
	if err != nil {
		t.Fatal(err)
	}
	prune(0, 3, 0)
	closeLayer(t, l)
	prune(0, 1)
	if all, err := s.All(); len(all) > 0 || err != nil {
		t.Errorf("left: %v, %v", all, err)
	}
}

func TestRemoveInUse(t *testing.T) {
	s := newStore(t)
	l := put(t, s, Meta{Key: key(1)}, nil)
	if err := s.Remove(key(1)); !errors.Is(err, filelock.ErrLocked) {
		t.Errorf("Remove of a layer in use: %v", err)
	}
	closeLayer(t, l)
	for range 2 {
		if err := s.Remove(key(1)); err != nil {
			t.Errorf("Remove: %v", err)
		}
	}
}
