package applycfg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// write makes files below dir; a name that ends in "*" is executable.
func write(t *testing.T, dir string, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func doc(t *testing.T, text string) *metadata.Object {
	t.Helper()
	v, err := metadata.Parse("doc", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v.(*metadata.Object)
}

// read returns every file below dir with its content.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.Walk(dir, func(path string, fi os.FileInfo, err error) error {
		if err == nil && !fi.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			b, _ := os.ReadFile(path)
			got[rel] = string(b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestRender(t *testing.T) {
	root := write(t, t.TempDir(), map[string]string{
		"etc/a.conf":      "{{a}} {{o}} {{f}} {{none}}|\r\n",
		"etc/a.conf.oac":  "mode: 0640\nallow_empty: no\n",
		"etc/run*":        "#!/bin/sh\ncat; echo ignored >&2\n",
		"README":          "plain\n",
		"elsewhere/x":     "not reached through a link\n",
		"elsewhere/y.oac": "",
	})
	for link, target := range map[string]string{"linked-dir": "elsewhere", "linked-file": "README"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Templates{Dir: root}.Render(t.Context(), doc(t, `{"a":"<x>","o":{"k":[1,null]},"f":1e3}`))
	if err != nil {
		t.Fatal(err)
	}
	want := []File{
		{Path: "README", Body: []byte("plain\n"), Control: noControl},
		{Path: "elsewhere/x", Body: []byte("not reached through a link\n"), Control: noControl},
		{Path: "etc/a.conf", Body: []byte("<x> {\"k\": [1, null]} 1000.0 |\n"), Control: Control{Mode: 0o640, UID: -1,
			GID: -1, NoEmpty: true}},
		{Path: "etc/run", Body: []byte(`{"a": "<x>", "o": {"k": [1, null]}, "f": 1000.0}`), Control: noControl},
		{Path: "linked-file", Body: []byte("plain\n"), Control: noControl},
	}
	if d := cmp.Diff(want, files, cmpopts.IgnoreUnexported(File{})); d != "" {
		t.Errorf("Render (-want +got):\n%s", d)
	}
}

func TestRenderErrors(t *testing.T) {
	for _, tc := range []struct {
		name, text, oac, want string
		status                int
	}{
		{"open", "a\n{{#x}}", "", "etc/open:2: section {{#x}} is never closed", 2},
		{"latin", "\xe9", "", "etc/latin: not UTF-8", 2},
		{"run*", "#!/bin/sh\necho broken >&2\nexit 3\n", "", "etc/run: exit status 3:\n    broken", 1},
		{"raw*", "#!/bin/sh\nprintf '\\351'\n", "", "etc/raw: its output is not UTF-8", 1},
		{"m", "", "mode: 755", "etc/m.oac:1: mode 755 is 01363, beyond 0777; an octal number begins with 0", 2},
		{"q", "", "\nmode: '0644'", `etc/q.oac:2: mode "0644" is no number; write it as 0640, without quotes`, 2},
		{"u", "", "owner: nobody-here", `etc/u.oac:1: owner "nobody-here": no such user on this system`, 2},
		{"g", "", "group: [a]", "etc/g.oac:1: group must be a name or a number", 2},
		{"e", "", "allow_empty: 0", `etc/e.oac:1: allow_empty "0" is neither true nor false`, 2},
		{"k", "", "mod: 0644", `etc/k.oac:1: no such key: "mod"`, 2},
		{"l", "", "- mode", "etc/l.oac:1: not a mapping", 2},
	} {
		name := strings.TrimSuffix(tc.name, "*")
		root := write(t, t.TempDir(), map[string]string{"etc/" + tc.name: tc.text, "etc/" + name + ".oac": tc.oac})
		_, err := Templates{Dir: root}.Render(t.Context(), nil)
		if err == nil || !strings.HasSuffix(err.Error(), "/"+tc.want) || command.Status(err) != tc.status {
			t.Errorf("%s: Render = %v, status %d; want …/%s, status %d", tc.name, err, command.Status(err), tc.want,
				tc.status)
		}
	}
}

func TestControlAccepts(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"a": "mode: 0600\nowner: root\ngroup: 0\nallow_empty: Yes\nset: x\n", "empty": "", "comment": "# none\n",
		"octal": "mode: 0_644", "zero": "mode: 0",
	})
	for name, want := range map[string]Control{
		"a": {Mode: 0o600}, "empty": noControl, "comment": noControl, "missing": noControl,
		"octal": {Mode: 0o644, UID: -1, GID: -1}, "zero": noControl,
	} {
		got, err := new(accounts).readControl(filepath.Join(dir, name))
		if err != nil || got != want {
			t.Errorf("readControl(%s) = %+v, %v; want %+v", name, got, err, want)
		}
	}
}

func file(path, body string) File { return File{Path: path, Body: []byte(body), Control: noControl} }

func apply(t *testing.T, o Output, files ...File) map[string]Action {
	t.Helper()
	changes, err := o.Apply(t.Context(), files)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Action{}
	for _, c := range changes {
		rel, _ := filepath.Rel(o.Dir, c.Path)
		got[rel] = c.Action
	}
	return got
}

func TestApply(t *testing.T) {
	out := write(t, t.TempDir(), map[string]string{"etc/same": "1", "etc/other": "1", "etc/gone": "x",
		"etc/target": "t", "etc/mode": "1"})
	if err := os.Symlink("target", filepath.Join(out, "etc/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(out, "etc/other"), 0o600); err != nil {
		t.Fatal(err)
	}
	past := int64(1e9)
	chtime(t, filepath.Join(out, "etc/same"), past)
	gone, never, mode := file("etc/gone", ""), file("etc/never", ""), file("etc/mode", "1")
	gone.Control.NoEmpty, never.Control.NoEmpty, mode.Control.Mode = true, true, 0o604
	files := []File{file("etc/same", "1"), file("etc/other", "2"), gone, never, mode, file("etc/link", "l"),
		file("new/dir/x", "n"), file("etc/empty", "")}
	want := map[string]Action{
		"etc/same": Unchanged, "etc/other": Updated, "etc/gone": Deleted, "etc/never": Unchanged, "etc/mode": Updated,
		"etc/link": Updated, "new/dir/x": Created, "etc/empty": Created,
	}
	before := read(t, out)
	if d := cmp.Diff(want, apply(t, Output{Dir: out, DryRun: true}, files...)); d != "" {
		t.Errorf("dry run (-want +got):\n%s", d)
	}
	if d := cmp.Diff(before, read(t, out)); d != "" {
		t.Errorf("the dry run changed (-before +after):\n%s", d)
	}
	if d := cmp.Diff(want, apply(t, Output{Dir: out}, files...)); d != "" {
		t.Errorf("Apply (-want +got):\n%s", d)
	}
	wantFiles := map[string]string{"etc/same": "1", "etc/other": "2", "etc/target": "t", "etc/mode": "1",
		"etc/link": "l", "new/dir/x": "n", "etc/empty": ""}
	if d := cmp.Diff(wantFiles, read(t, out)); d != "" {
		t.Errorf("files (-want +got):\n%s", d)
	}
	for name, want := range map[string]os.FileMode{"etc/other": 0o600, "etc/mode": 0o604, "new/dir/x": 0o644,
		"etc/link": 0o644} {
		fi, err := os.Lstat(filepath.Join(out, name))
		if err != nil || fi.Mode() != want {
			t.Errorf("%s has mode %v, %v; want %v", name, fi.Mode(), err, want)
		}
	}
	if fi, err := os.Stat(filepath.Join(out, "etc/same")); err != nil || fi.ModTime().Unix() != past {
		t.Errorf("an unchanged file was touched")
	}
	for path, a := range apply(t, Output{Dir: out}, files...) {
		if a != Unchanged {
			t.Errorf("the second time %s is %s", path, a)
		}
	}
}

func TestApplyIsAllOrNothing(t *testing.T) {
	out := write(t, t.TempDir(), map[string]string{"etc/a": "old", "dir/x": "", "file": ""})
	for _, bad := range []string{"dir", "file/x", "etc/" + strings.Repeat("n", 300)} {
		_, err := Output{Dir: out}.Apply(t.Context(), []File{file("etc/a", "new"), file(bad, "x")})
		if err == nil {
			t.Errorf("%.20s: no error", bad)
		}
		if d := cmp.Diff(map[string]string{"etc/a": "old", "dir/x": "", "file": ""}, read(t, out)); d != "" {
			t.Errorf("%.20s: files (-want +got):\n%s", bad, d)
		}
	}
}

func TestApplyStaysInside(t *testing.T) {
	base := write(t, t.TempDir(), map[string]string{"outside/keep": "k", "out/real/x": "old"})
	out := filepath.Join(base, "out")
	for link, target := range map[string]string{
		"relative": "../outside", "absolute": filepath.Join(base, "outside"), "inside": "real", "dangling": "nowhere",
		"magic": "/proc/self/root",
	} {
		if err := os.Symlink(target, filepath.Join(out, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"relative", "absolute", "magic", "dangling"} {
		if _, err := (Output{Dir: out}).Apply(t.Context(), []File{file(dir+"/evil", "x")}); err == nil {
			t.Errorf("wrote through the link %s", dir)
		}
	}
	if d := cmp.Diff(map[string]string{"keep": "k"}, read(t, filepath.Join(base, "outside"))); d != "" {
		t.Errorf("outside (-want +got):\n%s", d)
	}
	if got := apply(t, Output{Dir: out}, file("inside/x", "new")); got["inside/x"] != Updated {
		t.Errorf("a link that stays inside: %v", got)
	}
	_, err := Output{Dir: out}.Apply(t.Context(), []File{file("relative/evil", "x")})
	if e, ok := errors.AsType[*command.Error](err); !ok || e.Hint == "" || !strings.Contains(err.Error(),
		"leads out of "+out) {
		t.Errorf("Apply = %v; want it to say where the link leads", err)
	}
}

func TestKey(t *testing.T) {
	d := doc(t, `{"a":{"b":[10,"x y"]},"t":true,"f":1e3,"n":null,"o":{"k":1},"s":"word\n","u":"mysql://u:p@h/db?a=b"}`)
	for _, tc := range []struct{ key, typ, want string }{
		{"a.b.0", "int", "10"}, {"a.b.-1", "raw", "x y"}, {"a.b.1", "default", "error"}, {"t", "default", "true"},
		{"f", "raw", "1000.0"}, {"n", "raw", "missing"}, {"o", "raw", `{"k": 1}`}, {"s", "default", "word\n"},
		{"u", "dsn", "mysql://u:p@h/db?a=b"}, {"u", "netaddress", "error"}, {"x", "raw", "missing"}, {"x", "nonsense",
			"missing"}, {"t", "nonsense", "error"},
	} {
		got, ok, err := Key(d, tc.key, tc.typ)
		switch {
		case err != nil:
			got = "error"
		case !ok:
			got = "missing"
		}
		if got != tc.want {
			t.Errorf("Key(%s, %s) = %q, %v; want %q", tc.key, tc.typ, got, err, tc.want)
		}
	}
}

func TestSources(t *testing.T) {
	dir := write(t, t.TempDir(), map[string]string{
		"a.json": `{"a":1,"o":{"x":1}}`, "b.json": `{"o":{"y":2}}`, "list.json": `[1]`,
		"bad.json": "{\n\"completion-signal\": \"u\",\n  x}",
	})
	p := func(n string) string { return filepath.Join(dir, n) }
	write(t, dir,
		map[string]string{"files.json": `["` + p("a.json") + `","` + p("none.json") + `","` + p("b.json") + `"]`})
	env := func(s string) *string { return &s }
	for _, tc := range []struct {
		s            Sources
		want, errors string
	}{
		{Sources{Files: []string{p("b.json"), p("a.json")}}, `{"o": {"y": 2, "x": 1}, "a": 1}`, ""},
		{Sources{Env: env(p("a.json") + "::" + p("none") + ":" + p("list.json")), List: env(p("files.json"))},
			`{"a": 1, "o": {"x": 1}}`, ""},
		{Sources{List: env(p("files.json"))}, `{"a": 1, "o": {"x": 1, "y": 2}}`, ""},
		{Sources{List: env(p("none"))}, `{}`, ""},
		{Sources{Env: env(""), List: env(p("files.json"))}, `{}`, ""},
		{Sources{Files: []string{p("none")}}, "", p("none") + ": no such metadata file"},
		{Sources{Files: []string{p("list.json")}}, "", p("list.json") + ": not a JSON object"},
		{Sources{List: env(p("a.json"))}, "", p("a.json") + ": not a list of paths"},
		{Sources{List: env(p("list.json"))}, "", p("list.json") + ": not a list of paths"},
		{Sources{Env: env(p("bad.json"))}, "", p("bad.json") + ":3:3: expected a key in double quotes"},
	} {
		got, err := tc.s.Load()
		if err != nil {
			if err.Error() != tc.errors || command.Status(err) != command.StatusUsage {
				t.Errorf("Load(%+v): %v, status %d; want %s", tc.s, err, command.Status(err), tc.errors)
			}
			continue
		}
		if metadata.JSON(got) != tc.want {
			t.Errorf("Load(%+v) = %s; want %s%s", tc.s, metadata.JSON(got), tc.want, tc.errors)
		}
	}
	defer func(was string) { oldList = was }(oldList)
	for old, want := range map[string][2]string{p("files.json"): {p("files.json"), p("files.json")}, p("none"): {"", p("none")}} {
		oldList = old
		t.Setenv("OS_CONFIG_FILES_PATH", p("none"))
		for i, original := range []bool{false, true} {
			got := ""
			s := Sources{Original: original, Deprecated: func(path string) { got = path }}
			if _, err := s.Load(); err != nil || got != want[i] {
				t.Errorf("old list %s, original %v: told %q, %v; want %q", old, original, got, err, want[i])
			}
		}
	}
	s := Sources{Files: []string{p("a.json"), p("bad.json"), p("none")}}
	if got := metadata.JSON(s.Salvage()); got != `{"a": 1, "o": {"x": 1}, "completion-signal": "u"}` {
		t.Errorf("Salvage = %s", got)
	}
}

func chtime(t *testing.T, path string, unix int64) {
	t.Helper()
	if err := os.Chtimes(path, time.Unix(unix, 0), time.Unix(unix, 0)); err != nil {
		t.Fatal(err)
	}
}
