package imagebuild

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/element"
)

// stepInputs is what a step's key may depend on.
type stepInputs struct {
	def      Definition
	packages []string
	files    map[string]string // ELEMENT/FILE; "*" at the end makes it executable
	caller   map[string]string // environment
	parent   string
	hook     string // PHASE/NAME of the step
}

// elements "a" has the step, "b" is another.
func sampleInputs() *stepInputs {
	return &stepInputs{
		def: Definition{Name: "a", Version: "1", Arch: "amd64", Release: "bookworm",
			Mirror: Mirrors{"http://m/debian"}, Environment: map[string]string{"DIB_X": "1"}},
		packages: []string{"curl"},
		files: map[string]string{
			"a/install.d/10-x*": "x", "a/install.d/20-y*": "y", "a/install.d/data": "data", "a/list": "list", "a/README.md": "words",
			"a/smoke.d/10-x*": "x", "a/element-deps": "", "a/static/etc/x": "$(dirname $0)/..", "a/tests/x": "x",
			"b/environment.d/10-env": "export A=1", "b/install.d/10-z*": "z", "b/bin/tool*": "tool", "b/pkg-map": "{}",
			"b/yum.repos.d/sid/x": "repo",
		},
		caller: map[string]string{"http_proxy": "", "SOURCE_DATE_EPOCH": "1735689600"},
		hook:   "install.d/10-x",
	}
}

func (in *stepInputs) step(t *testing.T) *step {
	t.Helper()
	for k, v := range in.caller {
		t.Setenv(k, v)
	}
	dir := t.TempDir()
	hooksTree(t, filepath.Join(dir, "elements"), in.files)
	b := &build{def: &in.def, packages: in.packages, work: &work{dir: dir}, opts: Options{Bin: filepath.Join(dir, "elements/b/bin")}}
	for _, name := range []string{"a", "b"} {
		b.elements = append(b.elements, &element.Element{Name: name, Dir: filepath.Join(dir, "elements", name)})
	}
	if err := element.MergeHooks(b.elements[:1], b.hooks()); err != nil {
		t.Fatal(err)
	}
	k, err := newKeyMaker(b)
	if err != nil {
		t.Fatal(err)
	}
	phaseName, name := filepath.Split(in.hook)
	for _, p := range phases {
		if p.name+"/" == phaseName {
			s, err := k.hook(in.parent, p, b.hooks(), name)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	t.Fatalf("no phase %s", phaseName)
	return nil
}

// file is a change of one file of an element.
func file(name, text string) func(*stepInputs) {
	return func(in *stepInputs) { in.files[name] = text }
}

// caller is a change of the caller's environment.
func caller(name, value string) func(*stepInputs) {
	return func(in *stepInputs) { in.caller[name] = value }
}

// with gives the step another text before a change.
func with(text string, change func(*stepInputs)) func(*stepInputs) {
	return func(in *stepInputs) {
		in.files["a/install.d/10-x*"] = text
		if change != nil {
			change(in)
		}
	}
}

var unchanged = map[string]func(*stepInputs){
	"nothing":                   func(*stepInputs) {},
	"name":                      func(in *stepInputs) { in.def.Name = "b" },
	"version":                   func(in *stepInputs) { in.def.Version = "2" },
	"outputs":                   func(in *stepInputs) { in.def.Outputs = []string{"erofs"} },
	"mirror":                    func(in *stepInputs) { in.def.Mirror = Mirrors{"http://n/debian"} },
	"packages":                  func(in *stepInputs) { in.packages = nil },
	"another hook":              file("a/install.d/20-y*", "other"),
	"another's hook":            file("b/install.d/10-z*", "other"),
	"another's program":         file("b/bin/tool*", "other"),
	"another's data":            file("b/pkg-map", "other"),
	"smoke test":                file("a/smoke.d/10-x*", "y"),
	"README":                    file("a/README.md", "other words"),
	"dependencies":              file("a/element-deps", "b"),
	"test":                      file("a/tests/x", "y"),
	"caller's proxy":            caller("http_proxy", "http://p"),
	"caller's others":           caller("DIB_X", "2"),
	"definition's proxy":        func(in *stepInputs) { in.def.Environment["https_proxy"] = "http://p" },
	"a door in what is not run": file("b/static/etc/x", "$(dirname $0)/.."),
}

func TestStepKeyStays(t *testing.T) {
	want := sampleInputs().step(t).Key
	for name, change := range unchanged {
		in := sampleInputs()
		change(in)
		if in.step(t).Key != want {
			t.Errorf("%s changes the key", name)
		}
	}
}

func TestStepKeyChanges(t *testing.T) {
	everything := "ls $(dirname $0)/.."
	reads := "## goldsmith: {\"reads\": [\"pkg-map\", \"yum*\"]}\nls $TMP_HOOKS_PATH"
	changes := map[string]func(*stepInputs){
		"nothing":       func(*stepInputs) {},
		"parent":        func(in *stepInputs) { in.parent = "p" },
		"release":       func(in *stepInputs) { in.def.Release = "trixie" },
		"arch":          func(in *stepInputs) { in.def.Arch = "arm64" },
		"environment":   func(in *stepInputs) { in.def.Environment["less"] = "vim" },
		"value":         func(in *stepInputs) { in.def.Environment["DIB_X"] = "2" },
		"epoch":         caller("SOURCE_DATE_EPOCH", "1"),
		"hook":          with("y", nil),
		"data":          file("a/install.d/data", "more"),
		"list":          file("a/list", "more"),
		"program":       file("a/bin/x*", "x"),
		"not a program": file("a/bin/x", "x"),
		"static":        file("a/static/etc/x", "y"),
		"snippet":       file("b/environment.d/10-env", "export A=2"),
		"snippet names": file("b/environment.d/10-env", "export A=$IMAGE_NAME"),
		"snippet names, name": func(in *stepInputs) {
			in.files["b/environment.d/10-env"], in.def.Name = "export A=$IMAGE_NAME", "b"
		},
		"door":                with(everything, nil),
		"door, program":       with(everything, file("b/bin/tool*", "better")),
		"door, data":          with(everything, file("b/pkg-map", "better")),
		"door in a program":   file("a/bin/y*", everything),
		"through a program":   func(in *stepInputs) { in.files["a/bin/y*"], in.files["b/pkg-map"] = everything, "better" },
		"header":              with(reads, nil),
		"header, data":        with(reads, file("b/pkg-map", "better")),
		"header, below":       with(reads, file("b/yum.repos.d/sid/x", "better")),
		"name":                with("echo $IMAGE_NAME", nil),
		"other name":          with("echo $IMAGE_NAME", func(in *stepInputs) { in.def.Name = "b" }),
		"mirror":              with("echo $GOLDSMITH_MIRROR", nil),
		"other mirror":        with("echo $GOLDSMITH_MIRROR", func(in *stepInputs) { in.def.Mirror = nil }),
		"packages":            with("cat $GOLDSMITH_PACKAGES", nil),
		"other packages":      with("cat $GOLDSMITH_PACKAGES", func(in *stepInputs) { in.packages = []string{"less"} }),
		"our program":         with("cp $GOLDSMITH_BIN/tool /", nil),
		"our other program":   with("cp $GOLDSMITH_BIN/tool /", file("b/bin/tool*", "better")),
		"our program, quoted": with(`cp "${GOLDSMITH_BIN}/tool" /`, nil),
	}
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(changes)) {
		in := sampleInputs()
		changes[name](in)
		k := in.step(t).Key
		if by, dup := seen[k]; dup {
			t.Errorf("%s has the key of %s", name, by)
		}
		seen[k] = name
	}
}

// What a header does not name does not count, door or not.
func TestHeader(t *testing.T) {
	const reads = "## goldsmith: {\"reads\": [\"pkg-map\"]}\nls $(dirname $0)/.."
	in := sampleInputs()
	in.files["a/install.d/10-x*"] = reads
	want := in.step(t).Key
	in.files["b/bin/tool*"] = "better"
	if in.step(t).Key != want {
		t.Error("a program changes the key of a hook that reads pkg-map")
	}
	// Whoever reads variables without naming them depends on all.
	for text, all := range map[string]bool{
		"env | sort >/etc/x\n": true, "printenv X\n": true, "echo ${!name}\n": true, "declare -p\n": true, "x = os.environ\n": true,
		"set\n": true, "env -0\n": true, "export -p\n": true,
		"env X=1 true\n": false, "#!/usr/bin/env bash\n": false, "set -eu\n": false, "ls environment.d\n": false, "declare -A x\n": false,
		"export PATH\n": false, "virtualenv x\n": false,
	} {
		if peeks.MatchString(text) != all {
			t.Errorf("%q reads all variables: %t, want %t", text, !all, all)
		}
	}
	for text, bad := range map[string]string{
		"a\n## goldsmith: {\n": "line 2", "## goldsmith: {\"read\": []}": "unknown field", "## goldsmith: {\"reads\": [\"[\"]}": "syntax error",
	} {
		if _, err := readHeader([]byte(text)); err == nil || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v; want %s", text, err, bad)
		}
	}
}
