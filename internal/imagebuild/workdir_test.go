package imagebuild

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/testenv"
)

// The tests run in the namespaces that a build runs in.
func TestMain(m *testing.M) {
	rootfs.Init()
	if os.Geteuid() == 0 {
		if err := rootfs.Isolate(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// progress returns a progress and the text that it writes; Close the progress
// before the text is read.
func progress(t *testing.T) (*command.Progress, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	return command.NewProgress("test", command.IO{Stdout: &out, Stderr: &out}, false), &out
}

func testCache(t *testing.T) *cache {
	t.Helper()
	// Characters that patterns give a meaning to.
	c, err := openCache(filepath.Join(t.TempDir(), "ca[c]he *"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func inWork(t *testing.T, c *cache) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.dir, "work"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// Files that a hook lent to the tree by a mount survive the removal of the
// scratch directory, in the build that made it and in the next one.
func TestCleaningStaysOutOfMounts(t *testing.T) {
	testenv.NeedRoot(t)
	for name, clean := range map[string]func(c *cache, w *work) error{
		"close": func(_ *cache, w *work) error { return w.close() },
		"sweep": func(c *cache, w *work) error { return errors.Join(w.lock.Close(), c.sweep()) },
	} {
		t.Run(name, func(t *testing.T) {
			precious := t.TempDir()
			file := filepath.Join(precious, "deb")
			if err := os.WriteFile(file, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			c := testCache(t)
			p, _ := progress(t)
			w, err := c.newWork(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			at := filepath.Join(w.dir, "base/root/var/cache/apt/archives")
			if err := os.MkdirAll(at, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(precious, at, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			if err := clean(c, w); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("the host's file is gone: %v", err)
			}
			if left := inWork(t, c); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

// A build that starts never takes another starting build's directory for one
// that was left behind.
func TestBuildsStartTogether(t *testing.T) {
	c := testCache(t)
	for _, name := range []string{"build-1", "build-1.lock", "build-2.lock", "build-3"} { // of killed builds
		p := filepath.Join(c.dir, "work", name)
		if strings.HasSuffix(name, ".lock") {
			if err := os.WriteFile(p, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		} else if err := os.Mkdir(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p, _ := progress(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 12 {
				w, err := c.newWork(t.Context(), p)
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(w.dir, "mine"), nil, 0o644); err != nil {
					t.Errorf("the directory was removed under its build: %v", err)
				}
				if err := w.close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if left := inWork(t, c); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
