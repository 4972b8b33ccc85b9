package applycfg

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// What means harm ends with one error that names it, in bounded time, and
// nothing is written.
func TestHostileTemplates(t *testing.T) {
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	for name, c := range map[string]struct {
		make func(path string) error
		want string
	}{
		"pipe": {func(p string) error { return unix.Mkfifo(p, 0o644) }, "not a regular file"},
		"pipe by link": {func(p string) error {
			return errors.Join(unix.Mkfifo(p+".x", 0o644), os.Symlink(p+".x",
				p))
		}, "not a regular file"},
		"device": {link("/dev/zero"), "not a regular file"},
		"socket": {func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o644, 0) },
			"not a regular file"},
		"dangling":         {link("nowhere"), "no such file"},
		"loop":             {link("x"), "too many levels"},
		"large":            {func(p string) error { return os.Truncate(touch(p), maxOutput+1) }, "larger than 64 MiB"},
		"partial":          {text("{{>../../../../etc/passwd}}"), "outside the current directory"},
		"absolute partial": {text("{{>/etc/passwd}}"), "outside the current directory"},
		"endless":          {program("#!/bin/sh\nexec cat /dev/zero\n"), "prints more than 64 MiB"},
		"binary":           {text("\xff\xfe"), "not UTF-8"},
		"pipe as partial":  {text("{{>pipe}}"), "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			t.Chdir(base)
			if err := unix.Mkfifo("pipe.mustache", 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir("t", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := c.make(filepath.Join(base, "t/x")); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for _, original := range []bool{false, true} {
				_, err := Templates{Dir: "t", Original: original}.Render(t.Context(), nil)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Render = %v; want %q", err, c.want)
				}
			}
			t.Log(time.Since(began))
		})
	}
}

func touch(path string) string {
	_ = os.WriteFile(path, nil, 0o644)
	return path
}

func text(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o644) }
}

func program(s string) func(string) error {
	return func(path string) error { return os.WriteFile(path, []byte(s), 0o755) }
}

// A directory that is linked to is not entered, the root may be a link, and a
// control file that is none says nothing.
func TestLinkedTrees(t *testing.T) {
	base := write(t, t.TempDir(), map[string]string{"real/a": "a", "other/secret": "s", "real/b": "b",
		"real/b.oac/x": "{{! not a control file }}"})
	if err := errors.Join(os.Symlink("real", filepath.Join(base, "t")), os.Symlink("../other", filepath.Join(base,
		"real/dir")),
		os.Symlink("..", filepath.Join(base, "real/up"))); err != nil {
		t.Fatal(err)
	}
	files, err := Templates{Dir: filepath.Join(base, "t")}.Render(t.Context(), nil)
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	if got := strings.Join(paths, " "); err != nil || got != "a b b.oac/x" {
		t.Errorf("Render: %q, %v", got, err)
	}
}

func TestHostileDocuments(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.json")
	if err := os.WriteFile(large, append(append([]byte(`{"a":"`), bytes.Repeat([]byte("x"), 100<<20)...), `"}`...),
		0o644); err != nil {
		t.Fatal(err)
	}
	deep := filepath.Join(dir, "deep.json")
	if err := os.WriteFile(deep, bytes.Repeat([]byte(`{"a":[`), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{large: "larger than 64 MiB", deep: "nested more than 500 levels deep",
		"/dev/zero": "larger than 64 MiB"} {
		for _, s := range []Sources{{Files: []string{path}}, {Fallback: []string{path}, Original: true,
			Env: new(string)}, {List: &path}} {
			if _, err := s.Load(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v; want %q", path, err, want)
			}
		}
	}
}

// Places that cannot be written are errors before anything is.
func TestHostileOutput(t *testing.T) {
	out := write(t, t.TempDir(), map[string]string{"etc/a": "old", "etc/b": "old"})
	fifo := filepath.Join(out, "etc/c")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// A pipe in the file's place is replaced, and not waited for.
	if _, err := (Output{Dir: out}).Apply(t.Context(), []File{file("etc/c", "new")}); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(out, "etc/d"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"etc/d", "etc/a/x", "../x", "etc/../../x"} {
		if _, err := (Output{Dir: out}).Apply(t.Context(), []File{file("etc/b", "new"), file(bad, "x")}); err == nil {
			t.Errorf("%s: no error", bad)
		}
		if b, err := os.ReadFile(filepath.Join(out, "etc/b")); string(b) != "old" || err != nil {
			t.Fatalf("%s: another file was written: %q, %v", bad, b, err)
		}
	}
}

// Of any control file, only what it may say comes out.
func FuzzControl(f *testing.F) {
	for _, s := range []string{"mode: 0640\nowner: root\ngroup: 0\nallow_empty: no\n", "", "[]", "set: x",
		"mode: 0o644", "- a", "mode: &a 1\nowner: *a\n", "<<: {mode: 0600}"} {
		f.Add([]byte(s))
	}
	path := filepath.Join(f.TempDir(), "x.oac")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		c, err := new(accounts).readControl(path)
		if err != nil {
			if command.Status(err) != command.StatusUsage || command.HintOf(err) == "" ||
				!strings.HasPrefix(err.Error(), path) {
				t.Errorf("%q: %v", text, err)
			}
			return
		}
		if c.Mode > 0o777 || c.UID < -1 || c.GID < -1 {
			t.Errorf("%q: %+v", text, c)
		}
	})
}

// A record comes back as it was written, and any other text is refused or
// names files below the output directory only.
func FuzzJournal(f *testing.F) {
	f.Add("etc/x", journalHead+"put 1 \"etc/x\" \".t\"\nend 1\n")
	f.Add("a\n\xff\"", journalHead+"del 18446744073709551615 \"..\" \"t\"\n")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, path, record string) {
		s := &state{dir: dir}
		if filepath.IsLocal(path) {
			j := &job{path: path, action: Deleted, ino: 7, temp: ".t"}
			if err := s.write(commitName, []*job{j}); err != nil {
				t.Fatal(err)
			}
			todo, err := s.read(commitName)
			if err != nil || len(todo) != 1 || todo[0].path != path || todo[0].ino != 7 || todo[0].action != Deleted {
				t.Errorf("%q came back as %v, %v", path, todo, err)
			}
		}
		todo, ok := parseJournal(record)
		for _, j := range todo {
			if ok && (!filepath.IsLocal(j.path) || strings.Contains(j.temp, "/")) {
				t.Errorf("%q: %q %q", record, j.path, j.temp)
			}
		}
	})
}

// A difference holds every line of both texts, and what may be shown of a text
// never a secret of the metadata.
func FuzzDiff(f *testing.F) {
	f.Add("a\nb\nc\n", "a\nx\nc", "hunter2")
	f.Add("", "password = hunter2\n", "hunter2")
	f.Fuzz(func(t *testing.T, a, b, secret string) {
		var was, is strings.Builder
		for _, e := range edits(lines(a), lines(b)) {
			line := e.text
			if !e.incomplete {
				line += "\n"
			}
			if e.kind != '+' {
				was.WriteString(line)
			}
			if e.kind != '-' {
				is.WriteString(line)
			}
		}
		if was.String() != a || is.String() != b {
			t.Errorf("%q to %q became %q to %q", a, b, was.String(), is.String())
		}
		if d := unified(edits(lines(a), lines(b))); (d == "") != (a == b) {
			t.Errorf("%q to %q: %q", a, b, d)
		}
		if len(secret) >= 4 && !strings.Contains(hidden, secret) && !strings.Contains(secret, "*") {
			masked := newWords(spellings(secret)).mask(b)
			if strings.Contains(masked, secret) || strings.Count(masked, "\n") != strings.Count(b, "\n") {
				t.Errorf("%q is in %q, or not as many lines", secret, masked)
			}
		}
	})
}
