package element

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// twoElements makes elements a and b from "path: content" maps; a content
// that begins with "->" makes a symbolic link.
func twoElements(t *testing.T, a, b map[string]string) []*Element {
	t.Helper()
	dir := t.TempDir()
	var els []*Element
	for i, files := range []map[string]string{a, b} {
		e := &Element{Name: string(rune('a' + i))}
		e.Dir = filepath.Join(dir, e.Name)
		for p, content := range files {
			p = filepath.Join(e.Dir, p)
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if target, ok := strings.CutPrefix(content, "->"); ok {
				err = os.Symlink(target, p)
			} else {
				err = os.WriteFile(p, []byte(content), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		els = append(els, e)
	}
	return els
}

// A symbolic link of one element must not lead the files of another out of
// the merged tree.
func TestMergeHooksDoesNotFollowLinks(t *testing.T) {
	host := t.TempDir()
	passwd := filepath.Join(host, "passwd")
	if err := os.WriteFile(passwd, []byte("root"), 0o644); err != nil {
		t.Fatal(err)
	}
	els := twoElements(t, map[string]string{"static/etc": "->" + host}, map[string]string{"static/etc/passwd": "evil"})
	err := MergeHooks(els, filepath.Join(t.TempDir(), "hooks"))
	if err == nil || err.Error() != "element b: static/etc is a symbolic link in element a" ||
		command.Status(err) != command.StatusUsage || command.HintOf(err) == "" {
		t.Errorf("MergeHooks = %v, hint %q", err, command.HintOf(err))
	}
	if b, _ := os.ReadFile(passwd); string(b) != "root" {
		t.Errorf("a file of the host became %q", b)
	}
}

func TestMergeHooksKinds(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b map[string]string
		want string
	}{
		{"link inside the tree", map[string]string{"static/a/x": "->../../install.d", "install.d/1": ""},
			map[string]string{"static/a/x/1": ""}, "element b: static/a/x is a symbolic link in element a"},
		{"file, then directory", map[string]string{"static/a/x": ""},
			map[string]string{"static/a/x/1": ""}, "element b: static/a/x is a file in element a"},
		{"directory, then file", map[string]string{"static/a/x/1": ""},
			map[string]string{"static/a/x": ""}, "element b: static/a/x is a directory in element a"},
		{"first level", map[string]string{"static": ""},
			map[string]string{"static/a/x": ""}, "element b: static is a file in element a"},
		{"link for a link", map[string]string{"static/a/x": "->1"}, map[string]string{"static/a/x": "->2"}, ""},
		{"link for a file", map[string]string{"static/a/x": ""}, map[string]string{"static/a/x": "->/nowhere"}, ""},
		{"directories", map[string]string{"static/a/x/1": ""}, map[string]string{"static/a/x/2": ""}, ""},
		{"link and directory directly inside", map[string]string{"d/x": "->/"},
			map[string]string{"d/x/1": ""}, "element b: d/x is a symbolic link in element a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := ""
			if err := MergeHooks(twoElements(t, tt.a, tt.b), filepath.Join(t.TempDir(), "hooks")); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("MergeHooks = %q; want %q", got, tt.want)
			}
		})
	}
}
