package imagebuild

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/element"
)

// hooksTree writes files below dir; a name that ends in "*" is executable.
func hooksTree(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		mode := os.FileMode(0o644)
		if n, ok := strings.CutSuffix(name, "*"); ok {
			name, mode = n, 0o755
		}
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// What makes another base tree and what must not.
func TestBaseKey(t *testing.T) {
	type inputs struct {
		def      Definition
		packages []string
		elements []string
		files    map[string]string
		env      map[string]string // the caller's
	}
	sample := func() inputs {
		return inputs{
			def: Definition{Name: "a", Version: "1", Arch: "amd64", Release: "bookworm",
				Mirror: Mirrors{"http://m/debian"}, Environment: map[string]string{"DIB_X": "1"}},
			packages: []string{"curl"},
			elements: []string{"debian"},
			files: map[string]string{
				"root.d/10-os*": "make", "environment.d/10-env": "export A=1", "install.d/10-x*": "x",
				"bin/tool*": "tool", "yum.repos.d/sid/x": "repo", "README.md": "words", "static/etc/x": "x",
				"smoke.d/10-x*": "x", "os-refresh-config/configure.d/10-x*": "x", "os-apply-config/etc/x": "x",
			},
		}
	}
	get := func(change func(*inputs)) string {
		t.Helper()
		in := sample()
		change(&in)
		for k, v := range in.env {
			t.Setenv(k, v)
		}
		dir := t.TempDir()
		hooksTree(t, dir, in.files)
		b := &build{def: &in.def, packages: in.packages, hooks: dir, work: &work{dir: t.TempDir()}}
		for _, name := range in.elements {
			b.elements = append(b.elements, &element.Element{Name: name})
		}
		k, err := b.baseKey()
		if err != nil {
			t.Fatal(err)
		}
		for key := range in.env {
			if err := os.Unsetenv(key); err != nil {
				t.Fatal(err)
			}
		}
		return k
	}
	file := func(name, text string) func(*inputs) {
		return func(in *inputs) { in.files[name] = text }
	}
	same := map[string]func(*inputs){
		"nothing":         func(*inputs) {},
		"name":            func(in *inputs) { in.def.Name = "b" },
		"version":         func(in *inputs) { in.def.Version = "2" },
		"outputs":         func(in *inputs) { in.def.Outputs = []string{"erofs"} },
		"install.d":       file("install.d/10-x*", "y"),
		"a new phase":     file("finalise.d/99-x*", "y"),
		"static":          file("static/etc/x", "y"),
		"smoke.d":         file("smoke.d/10-x*", "y"),
		"configure.d":     file("os-refresh-config/configure.d/10-x*", "y"),
		"template":        file("os-apply-config/etc/x", "y"),
		"README":          file("README.md", "other words"),
		"caller's proxy":  func(in *inputs) { in.env = map[string]string{"http_proxy": "http://p"} },
		"definition's":    func(in *inputs) { in.def.Environment["https_proxy"] = "http://p" },
		"caller's others": func(in *inputs) { in.env = map[string]string{"DIB_X": "2"} },
	}
	other := map[string]func(*inputs){
		"release":     func(in *inputs) { in.def.Release = "trixie" },
		"arch":        func(in *inputs) { in.def.Arch = "arm64" },
		"mirror":      func(in *inputs) { in.def.Mirror = Mirrors{"http://n/debian"} },
		"mirrors":     func(in *inputs) { in.def.Mirror = append(in.def.Mirror, "http://n/debian") },
		"no package":  func(in *inputs) { in.packages = nil },
		"packages":    func(in *inputs) { in.packages = []string{"curl", "less", "vim"} },
		"environment": func(in *inputs) { in.def.Environment["less"] = "vim" },
		"value":       func(in *inputs) { in.def.Environment["DIB_X"] = "2" },
		"elements":    func(in *inputs) { in.elements = append(in.elements, "redis") },
		"epoch":       func(in *inputs) { in.env = map[string]string{"SOURCE_DATE_EPOCH": "1"} },
		"root.d":      file("root.d/10-os*", "make it"),
		"another":     file("root.d/20-os*", ""),
		"not a hook":  func(in *inputs) { delete(in.files, "root.d/10-os*"); in.files["root.d/10-os"] = "make" },
		"snippet":     file("environment.d/10-env", "export A=2"),
		"bin":         file("bin/tool*", "better"),
		"data":        file("yum.repos.d/sid/x", "other"),
		"first level": file("list", "x"),
	}
	want := get(func(*inputs) {})
	for name, change := range same {
		if got := get(change); got != want {
			t.Errorf("%s changes the key", name)
		}
	}
	seen := map[string]string{want: "nothing"}
	for _, name := range slices.Sorted(maps.Keys(other)) {
		k := get(other[name])
		if by, dup := seen[k]; dup {
			t.Errorf("%s has the key of %s", name, by)
		}
		seen[k] = name
	}
}

// root.d hooks are told nothing of the image that others may not share.
func TestBaseEnvironment(t *testing.T) {
	b := &build{def: &Definition{Name: "secret", Version: "7"}, work: &work{}}
	for p, want := range map[phase][]string{
		rootPhase: {"IMAGE_NAME=image", "IMAGE_VERSION=0"},
		phases[2]: {"IMAGE_NAME=secret", "IMAGE_VERSION=7"},
	} {
		for _, w := range want {
			if env := b.environment(p, "/"); !slices.Contains(env, w) {
				t.Errorf("%s: %s is not in %q", p.name, w, env)
			}
		}
	}
}

func TestNewestBefore(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for name, at := range map[string]time.Time{
		"old": now.Add(-48 * time.Hour), "newest": now.Add(-24*time.Hour + 300*time.Millisecond),
		"made by this build": now.Add(time.Second), "made just before": now.Add(-time.Second),
	} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
	// Neither links nor directories have a packager's time.
	if err := os.Symlink("old", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	got, err := newestBefore(dir, now)
	if want := now.Add(-24 * time.Hour); !got.Equal(want) || err != nil {
		t.Errorf("newestBefore = %v, %v; want %v", got, err, want)
	}
	if got, err := newestBefore(t.TempDir(), now); !got.Equal(time.Unix(0, 0)) || err != nil {
		t.Errorf("newestBefore of nothing = %v, %v; want the epoch", got, err)
	}
}
