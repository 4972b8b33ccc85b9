package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnotherImage(t *testing.T) {
	state, image := t.TempDir(), t.TempDir()
	kept := filepath.Join(state, "fs/var")
	hash := rootHash{1}
	start := func() string {
		t.Helper()
		var said bytes.Buffer
		c := &console{out: &said}
		f := newFactory(state, &hash)
		if err := f.directory(c, "/var", kept, image); err != nil {
			t.Fatal(err)
		}
		f.done(c)
		return said.String()
	}
	expect := func(when, want string) {
		t.Helper()
		if got := layer(t, kept); got != want {
			t.Errorf("%s: %s; want %s", when, got, want)
		}
	}
	put(t, filepath.Join(image, "lib/old"))
	put(t, filepath.Join(image, "lib/gone"))
	start()
	expect("first start", "lib/gone, lib/old")
	for _, name := range []string{"lib/own", "link-target/x"} {
		put(t, filepath.Join(kept, name))
	}
	err := os.WriteFile(filepath.Join(kept, "lib/old"), []byte("changed"), 0o600)
	if err == nil {
		err = os.Remove(filepath.Join(kept, "lib/gone"))
	}
	if err == nil {
		err = os.Symlink("link-target", filepath.Join(kept, "link"))
	}
	if err != nil {
		t.Fatal(err)
	}
	start()
	expect("the same image", "lib/old, lib/own, link, link-target/x")

	for _, name := range []string{"lib/new/a", "lib/new/b", "link/y", "more", "link-target/x/under-a-file"} {
		put(t, filepath.Join(image, name))
	}
	put(t, filepath.Join(state, filledPart, "0")) // of a start that was cut short
	hash = rootHash{2}
	start()
	expect("another image", "lib/gone, lib/new/a, lib/new/b, lib/old, lib/own, link, link-target/x, more")
	if b, err := os.ReadFile(filepath.Join(kept, "lib/old")); err != nil || string(b) != "changed" {
		t.Errorf("lib/old = %q, %v", b, err)
	}
	if err := os.Remove(filepath.Join(kept, "more")); err != nil {
		t.Fatal(err)
	}
	if said := start(); said != "" {
		t.Errorf("the next start: %s", said)
	}
	expect("the next start", "lib/gone, lib/new/a, lib/new/b, lib/old, lib/own, link, link-target/x")
	if _, err := os.Lstat(filepath.Join(state, filledPart)); err == nil {
		t.Error("the waiting place is left")
	}
}

// A directory that cannot be added to is no reason not to start; the next one
// tries again.
func TestAnotherImageThatDoesNotFit(t *testing.T) {
	state, image := t.TempDir(), t.TempDir()
	kept := filepath.Join(state, "fs/var")
	put(t, filepath.Join(image, "new"))
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	f := newFactory(state, &rootHash{1})
	if err := os.RemoveAll(image); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	c := &console{out: &said}
	if err := f.directory(c, "/var", kept, image); err != nil || said.Len() == 0 {
		t.Errorf("%v; said %q", err, said.String())
	}
	f.done(c)
	if !newFactory(state, &rootHash{1}).add {
		t.Error("it is noted as done")
	}
}

func TestResetState(t *testing.T) {
	state := t.TempDir()
	c := &console{out: &bytes.Buffer{}}
	for _, name := range []string{"etc/upper/x", "fs/var/y", "filled", "boot/slots.json", "boot/attempts.jsonl",
		"boot/cache/z", "lost+found/w"} {
		put(t, filepath.Join(state, name))
	}
	if err := resetState(c, state); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(state, "fs/var/y")); err != nil {
		t.Error("reset without a request")
	}
	put(t, filepath.Join(state, resetFile))
	immutable(t, filepath.Join(state, "fs/var/y"))
	if err := resetState(c, state); err != nil {
		t.Fatal(err)
	}
	if got, want := layer(t, state), "boot/attempts.jsonl, boot/slots.json, lost+found"; got != want {
		t.Errorf("left %s; want %s", got, want)
	}
}

// immutable makes a file so, where the file system can.
func immutable(t *testing.T, path string) {
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_IMMUTABLE); err != nil {
		t.Logf("not immutable: %v", err)
	}
}
