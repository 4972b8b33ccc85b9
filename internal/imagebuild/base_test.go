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

// keyInputs is what a base tree's key may depend on.
type keyInputs struct {
	def      Definition
	packages []string
	elements []string
	files    map[string]string
	caller   map[string]string // environment
}

func sampleKeyInputs() *keyInputs {
	return &keyInputs{
		def: Definition{Name: "a", Version: "1", Arch: "amd64", Release: "bookworm",
			Mirror: Mirrors{"http://m/debian"}, Environment: map[string]string{"DIB_X": "1"}},
		packages: []string{"curl"},
		elements: []string{"debian"},
		files: map[string]string{
			"root.d/10-os*": "make", "environment.d/10-env": "export A=1", "install.d/10-x*": "x",
			"bin/tool*": "tool", "yum.repos.d/sid/x": "repo", "README.md": "words", "static/etc/x": "x",
			"smoke.d/10-x*": "x", "os-refresh-config/configure.d/10-x*": "x", "os-apply-config/etc/x": "x",
		},
		caller: map[string]string{"http_proxy": "", "SOURCE_DATE_EPOCH": "1735689600"},
	}
}

func (in *keyInputs) key(t *testing.T) string {
	t.Helper()
	for k, v := range in.caller {
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
	return k
}

// file is a change of one file in the hooks tree.
func file(name, text string) func(*keyInputs) {
	return func(in *keyInputs) { in.files[name] = text }
}

// caller is a change of the caller's environment.
func caller(name, value string) func(*keyInputs) {
	return func(in *keyInputs) { in.caller[name] = value }
}

func TestBaseKeyStays(t *testing.T) {
	want := sampleKeyInputs().key(t)
	for name, change := range map[string]func(*keyInputs){
		"nothing":            func(*keyInputs) {},
		"name":               func(in *keyInputs) { in.def.Name = "b" },
		"version":            func(in *keyInputs) { in.def.Version = "2" },
		"outputs":            func(in *keyInputs) { in.def.Outputs = []string{"erofs"} },
		"hook of install.d":  file("install.d/10-x*", "y"),
		"another phase":      file("finalise.d/99-x*", "y"),
		"static":             file("static/etc/x", "y"),
		"smoke test":         file("smoke.d/10-x*", "y"),
		"boot hook":          file("os-refresh-config/configure.d/10-x*", "y"),
		"template":           file("os-apply-config/etc/x", "y"),
		"README":             file("README.md", "other words"),
		"caller's proxy":     caller("http_proxy", "http://p"),
		"caller's others":    caller("DIB_X", "2"),
		"definition's proxy": func(in *keyInputs) { in.def.Environment["https_proxy"] = "http://p" },
	} {
		in := sampleKeyInputs()
		change(in)
		if in.key(t) != want {
			t.Errorf("%s changes the key", name)
		}
	}
}

func TestBaseKeyChanges(t *testing.T) {
	changes := map[string]func(*keyInputs){
		"nothing":     func(*keyInputs) {},
		"release":     func(in *keyInputs) { in.def.Release = "trixie" },
		"arch":        func(in *keyInputs) { in.def.Arch = "arm64" },
		"mirror":      func(in *keyInputs) { in.def.Mirror = Mirrors{"http://n/debian"} },
		"mirrors":     func(in *keyInputs) { in.def.Mirror = append(in.def.Mirror, "http://n/debian") },
		"no package":  func(in *keyInputs) { in.packages = nil },
		"packages":    func(in *keyInputs) { in.packages = []string{"curl", "less", "vim"} },
		"environment": func(in *keyInputs) { in.def.Environment["less"] = "vim" },
		"value":       func(in *keyInputs) { in.def.Environment["DIB_X"] = "2" },
		"elements":    func(in *keyInputs) { in.elements = append(in.elements, "redis") },
		"epoch":       caller("SOURCE_DATE_EPOCH", "1"),
		"root.d":      file("root.d/10-os*", "make it"),
		"another":     file("root.d/20-os*", ""),
		"mode":        func(in *keyInputs) { delete(in.files, "root.d/10-os*"); in.files["root.d/10-os"] = "make" },
		"snippet":     file("environment.d/10-env", "export A=2"),
		"program":     file("bin/tool*", "better"),
		"data":        file("yum.repos.d/sid/x", "other"),
		"first level": file("list", "x"),
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		in := sampleKeyInputs()
		changes[name](in)
		k := in.key(t)
		if by, dup := seen[k]; dup {
			t.Errorf("%s has the key of %s", name, by)
		}
		seen[k] = name
	}
}

// root.d hooks are told nothing of the image that others may not share.
func TestBaseEnvironment(t *testing.T) {
	b := &build{def: &Definition{Name: "secret", Version: "7"}, work: &work{}, cache: &cache{}}
	for p, want := range map[phase][]string{
		rootPhase:     {"IMAGE_NAME=image", "IMAGE_VERSION=0"},
		diskPhases[1]: {"IMAGE_NAME=secret", "IMAGE_VERSION=7"},
	} {
		for _, w := range want {
			if env := b.stageFor(p, "/").environment(p); !slices.Contains(env, w) {
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
