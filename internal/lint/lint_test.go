package lint

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with dib-lint over all of diskimage-builder's elements, not a sample")

func put(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

const good = "#!/bin/bash\nset -eu -o pipefail\n\nif true; then\n    echo yes\nfi\n"

func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, file, content string
		mode                os.FileMode
		dib                 bool
		want                string // findings without the directory, with ";"
	}{
		{"good", "install.d/10-a", good, 0o755, false, ""},
		{"good for dib-lint", "install.d/10-a", "#!/bin/bash\nif [ ${DIB_DEBUG_TRACE:-0} -gt 0 ]; then\n    set -x\nfi\nset -eu\nset -o pipefail\n", 0o755, true, ""},
		{"our form is not dib-lint's", "install.d/10-a", good, 0o755, true, "install.d/10-a:1: dibdebugtrace: does not follow DIB_DEBUG_TRACE;install.d/10-a:1: setpipefail: is not set -o pipefail: does not see a failure inside a pipe"},
		{"not executable", "install.d/10-a", good, 0o644, false, "install.d/10-a:1: executable: begins with #! and is not executable"},
		{"no hook's name", "static/usr/libexec/goldsmith/health.d/60-dead.sh", good, 0o755, false,
			"static/usr/libexec/goldsmith/health.d/60-dead.sh:1: hookname: is never run: a hook's name has letters, digits, - and _ only"},
		{"nor a phase's", "os-refresh-config/configure.d/10-a.py", "#!/usr/bin/env python3\n", 0o755, false,
			"os-refresh-config/configure.d/10-a.py:1: hookname: is never run: a hook's name has letters, digits, - and _ only"},
		{"a document beside hooks", "static/usr/libexec/goldsmith/health.d/README.md", "# a\n", 0o644, false, ""},
		{"a name elsewhere", "static/usr/libexec/goldsmith/a.sh", good, 0o755, false, ""},
		{"no options", "install.d/10-a", "#!/bin/bash\ntrue\n", 0o755, false, "install.d/10-a:1: sete: is not set -e: goes on after a failure;install.d/10-a:1: setpipefail: is not set -o pipefail: does not see a failure inside a pipe;" +
			"install.d/10-a:1: setu: is not set -u: takes a variable that is not set for an empty one"},
		{"options together", "install.d/10-a", "#!/bin/bash\nset -euo pipefail\n", 0o755, false, ""},
		{"another bash", "install.d/10-a", "#!/usr/bin/env bash\n", 0o755, false, "install.d/10-a:1: shebang: bash scripts begin with #!/bin/bash"},
		{"another shell", "install.d/10-a", "#!/bin/sh\ntrue\n", 0o755, false, ""},
		{"indents", "install.d/10-a", good + "  two\n\ttab\n        eight\n", 0o755, false, "install.d/10-a:7: indent: is not indented by multiples of four blanks;install.d/10-a:8: tabindent: is indented by a tab"},
		{"Python's indents are its own", "bin/a", "#!/usr/bin/env python3\nif True:\n  pass\n", 0o755, false, ""},
		{"no end", "install.d/10-a", good + "true", 0o755, false, "install.d/10-a:7: newline: the last line has no end"},
		{"no end of a source", "source-repository-a", "a git /a b", 0o644, false, "source-repository-a:1: newline: the last line has no end, and may not be read"},
		{"unsorted", "element-deps", "b\n# comment\n\na\n", 0o644, false, "element-deps:4: sorted: a stands behind b: dependencies are sorted"},
		{"environment", "environment.d/10-a", "set -eu\nset -x\nexport A=$(true)\n", 0o755, false,
			"environment.d/10-a:1: environment: is executable; it is sourced, not run;environment.d/10-a:2: environment: sets tracing, for all hooks and all secrets;" +
				"environment.d/10-a:3: export: export hides the failure of the command: assign first, then export"},
		{"sudo on the host", "root.d/10-a", good + "sudo rm -rf /\nsudo rm $TARGET_ROOT/x\n# sudo x\nsudo x # dib-lint: safe_sudo\nsudo cp a \\\n    $TMP_MOUNT_PATH/b\n", 0o755, false,
			"root.d/10-a:7: safe_sudo: sudo on the build host that does not name the image's tree: sudo rm -rf /"},
		{"sudo inside", "install.d/10-a", good + "sudo rm x\n", 0o755, false, ""},
		{"which", "install.d/10-a", good + "a=$(which b)\n# which is a comment\nwhich c # dib-lint: which\n", 0o755, false,
			"install.d/10-a:7: which: which is not everywhere; use type -p or command -v: a=$(which b)"},
		{"prose may ask which", "README.md", "# a\n\nwhich it is.\n", 0o644, false, ""},
		{"markdown", "notes.md", "# a\n", 0o644, true, "notes.md:1: mddocs: documentation is written in README.rst"},
		{"left out in the file", "install.d/10-a", "#!/bin/bash\n# dib-lint: disable=sete setu\n# dib-lint: disable=setpipefail\ntrue\n", 0o755, false, ""},
		{"YAML", "x.yaml", "a: 1\nb: [\n", 0o644, false, "x.yaml:"},
		{"package-installs", "package-installs.yaml", "a:\nb:\n  arch: x\n  not-arch: y\n", 0o644, false, "package-installs.yaml:3: package-installs: b: has both arch and not-arch (keep one of them)"},
		{"package-installs, no such option", "package-installs.yaml", "a:\n  phse: x\n", 0o644, false, "package-installs.yaml:2: package-installs: a: option \"phse\" has no effect; the options are phase, installtype, arch, not-arch, dib_python_version, when, uninstall, build-only"},
		{"package-installs, an unknown variable is no mistake", "package-installs.yaml", "a:\n  installtype: package\n  when: WHAT = 1\n", 0o644, false, ""},
		{"package-installs, no condition, behind a type", "package-installs.yaml", "a:\n  installtype: package\n  when: WHAT\n", 0o644, false,
			"package-installs.yaml:3: package-installs: a: when: \"WHAT\" is no condition (write VARIABLE = value or VARIABLE != value)"},
		{"pkg-map", "pkg-map", "{\n \"default\": {\"a\": 1}\n}\n", 0o644, false, "pkg-map:2: pkg-map: "},
		{"pkg-map, the program", "bin/pkg-map", good, 0o755, false, ""},
		{"svc-map", "svc-map", "a: [x]\n", 0o644, false, "svc-map:1: svc-map: "},
		{"block device", "block-device-default.yaml", "a: 1\n", 0o644, false, "block-device-default.yaml:1: block-device: expected a list of block devices, found"},
		{"block devices", "block-device-default.yaml", "- local_loop:\n    name: image0\n- x\n", 0o644, false, "block-device-default.yaml:3: block-device: expected one kind of block device"},
		{"binary", "static/core", "\x00which \texport A=$(", 0o755, false, ""},
		{"compiled", "bin/__pycache__/x.pyc", "#!", 0o644, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			put(t, dir+"/e/README.rst", "a\n=\n", 0o644)
			put(t, dir+"/e/"+c.file, c.content, c.mode)
			found, err := Elements([]string{dir + "/e"}, Options{DIB: c.dib})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, strings.TrimPrefix(f.String(), dir+"/e/"))
			}
			text := strings.Join(got, ";")
			if text != c.want && !(strings.HasSuffix(c.want, ":") || strings.HasSuffix(c.want, ": ") || strings.HasSuffix(c.want, "found") || strings.HasSuffix(c.want, "device")) ||
				!strings.HasPrefix(text, c.want) || (c.want == "") != (text == "") {
				t.Errorf("found %s\nwant  %s", text, c.want)
			}
		})
	}
}

func TestLeftOut(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/tox.ini", "[tox]\nignore = no\n[dib-lint]\n# comment\nignore = sete setu\n    readme\n[x]\nignore = y\n", 0o644)
	got, err := Ignored(dir)
	if d := cmp.Diff([]string{"sete", "setu", "readme"}, got); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if got, err := Ignored(dir + "/none"); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	put(t, dir+"/e/install.d/10-a", "#!/bin/bash\n", 0o755)
	found, err := Elements([]string{dir + "/e"}, Options{Ignore: got})
	if err != nil || len(found) != 1 || found[0].Rule != "setpipefail" {
		t.Errorf("%v, %v", found, err)
	}
}

func TestGitIgnored(t *testing.T) {
	testenv.Need(t, "git")
	dir := t.TempDir()
	put(t, dir+"/e/README.md", "a\n", 0o644)
	put(t, dir+"/e/install.d/10-a", "#!/bin/bash", 0o644)
	put(t, dir+"/.gitignore", "10-*\n", 0o644)
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if found, err := Elements([]string{dir + "/e"}, Options{}); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
}

// Our own elements keep to the rules.
func TestOwnElements(t *testing.T) {
	dirs, err := filepath.Glob("../../elements/*")
	if err != nil || len(dirs) == 0 {
		t.Fatal(dirs, err)
	}
	found, err := Elements(dirs, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

// said are dib-lint's messages; each has the file where it says %.
var said = map[string]string{
	"% lacks a README.rst": "readme", "% is not executable": "executable", "% should use 4 spaces indent": "indent",
	"% is not sorted alphabetically": "sorted", "% : only use #!/bin/bash for scripts": "shebang", "% is not set -e": "sete",
	"% is not set -u": "setu", "% is not set -o pipefail": "setpipefail", "% does not follow DIB_DEBUG_TRACE": "dibdebugtrace",
	"Environment file % should not set tracing": "environment", "Environment file % should not be marked as executable": "environment",
	"Split export and assignments in %": "export", "% : potentially unsafe sudo": "safe_sudo", "% : potential use of which": "which",
	"% contains tab characters": "tabindent", "No newline at end of file: %": "newline", "% does not end with a newline": "newline",
	".md docs found: %": "mddocs", "% is not a valid YAML file": "yaml", "% is not a valid JSON file": "pkg-map",
}

// original runs dib-lint and returns "file rule" words, sorted.
func original(t *testing.T, dir string) []string {
	t.Helper()
	testenv.Need(t, "dib-lint", "git")
	testenv.NeedFile(t, "/usr/bin/python3")
	// It calls python and flake8 by these names.
	bin := t.TempDir()
	if err := os.Symlink("/usr/bin/python3", bin+"/python"); err != nil {
		t.Fatal(err)
	}
	put(t, bin+"/flake8", "#!/bin/sh\n", 0o755)
	lib := t.TempDir()
	cmd := exec.Command("dib-lint")
	cmd.Dir = bin
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ELEMENTS_DIR="+dir, "LIB_DIR="+lib, "LC_ALL=C")
	out, _ := cmd.CombinedOutput()
	if !regexp.MustCompile(`(?m)^(PASS|\*\*\* FAIL.*)$`).Match(out) {
		t.Fatalf("dib-lint did not finish:\n%s", out)
	}
	set := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		text, ok := strings.CutPrefix(line, "ERROR: ")
		if strings.HasPrefix(line, dir) && strings.HasSuffix(line, ".md") { // further ".md docs found"
			set[strings.TrimPrefix(line, dir+"/")+" mddocs"] = true
		}
		if !ok {
			continue
		}
		known := false
		for form, rule := range said {
			before, after, _ := strings.Cut(form, "%")
			if strings.HasPrefix(text, before) && strings.HasSuffix(text, after) {
				for name := range strings.FieldsSeq(text[len(before) : len(text)-len(after)]) {
					set[strings.TrimPrefix(name, dir+"/")+" "+rule] = true
				}
				known = true
			}
		}
		if !known {
			t.Errorf("dib-lint says something new: %s", text)
		}
	}
	words := []string{}
	for w := range set {
		words = append(words, w)
	}
	slices.Sort(words)
	return words
}

// againstOriginal compares what both find in a directory of elements.
func againstOriginal(t *testing.T, matter, dir string) {
	t.Helper()
	dirs, err := filepath.Glob(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool {
		fi, err := os.Stat(d)
		return err != nil || !fi.IsDir() || filepath.Base(d) == "__pycache__"
	})
	found, err := Elements(dirs, Options{DIB: true})
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]bool{}
	for _, f := range found {
		rule := f.Rule
		if rule == "package-installs" || rule == "block-device" || rule == "svc-map" {
			continue // the original does not look
		}
		set[strings.TrimPrefix(f.File, dir+"/")+" "+rule] = true
	}
	got := []string{}
	for w := range set {
		got = append(got, w)
	}
	slices.Sort(got)
	want := slices.DeleteFunc(original(t, dir), func(w string) bool { return strings.Contains(w, "__pycache__") })
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("findings (-original +ours):\n%s", d)
	}
	testenv.Proof(t, testenv.Row{
		Matter: matter, Equal: len(dirs), Note: fmt.Sprintf("They find %d mistakes", len(want)), Sample: !*exhaustive,
	})
}

// Files that are put together of good and bad lines.
func TestOracleMade(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	dir := t.TempDir()
	n := 40
	if *exhaustive {
		n = 600
	}
	for i := range n {
		e := fmt.Sprintf("%s/e%03d/", dir, i)
		if rng.IntN(5) > 0 {
			put(t, e+"README.rst", pick("a\n=\n", "a", "\tx\n"), 0o644)
		}
		name := pick("install.d/10-a", "root.d/10-a", "finalise.d/a", "environment.d/10-a", "bin/a", "element-deps", "source-repository-a", "static/etc/f", "pkg-map", "x.yaml", "notes.md", "cleanup.d/sub/x")
		var b strings.Builder
		b.WriteString(pick("#!/bin/bash\n", "#!/bin/bash\n", "#!/bin/sh\n", "#!/usr/bin/env bash\n", "#!/bin/bash -e\n", "", "{}\n", "a: b\n"))
		for range rng.IntN(9) {
			b.WriteString(pick("set -eu\n", "set -o pipefail\n", "set -e\n", "set -euo pipefail\n", "  set -x\n", "set -x\n", "# DIB_DEBUG_TRACE\n", "    echo\n", "  echo\n", "\techo\n", "      \techo\n",
				"export A=$(b)\n", "export A=b\n", "sudo rm x\n", "    sudo rm $TARGET_ROOT/x\n", "  # sudo x\n", "sudo a \\\n    $TMP_MOUNT_PATH\n", "sudo a \\\\\n", "sudo x # dib-lint: safe_sudo\n", "sudo \\\n  install-packages\n",
				"which x\n", "# which x\n", "    x=$(which y)\n", "zebra\n", "apple\n", "\n", "# dib-lint: disable=sete\n", "# dib-lint: disable=which safe_sudo indent\n", "# dib-lint: disable=executable\n", " # dib-lint: disable=setu\n", "[\n"))
		}
		text := b.String()
		if rng.IntN(6) == 0 {
			text += "#end"
		}
		if name == "element-deps" {
			text = "# sorted\napple\nzebra\n" // dib-lint stops at one that is not, or is empty
		}
		if name == "x.yaml" {
			// PyYAML refuses a tab in front of a continued line, the reader here does not.
			text = strings.ReplaceAll(text, "\t", "    ")
		}
		if name == "notes.md" {
			text = "notes, not a script\n"
		}
		if name == "pkg-map" && rng.IntN(2) == 0 {
			text = pick("{}\n", `{"default": {"a": "b"}}`, "{")
		}
		put(t, e+name, text, os.FileMode([]int{0o755, 0o755, 0o644}[rng.IntN(3)]))
	}
	againstOriginal(t, "dib-lint, made elements", dir)
}

// All of diskimage-builder's elements.
func TestOracleElements(t *testing.T) {
	if !*exhaustive {
		t.Skip("minutes; -exhaustive runs it")
	}
	dir := "/usr/lib/python3/dist-packages/diskimage_builder/elements"
	testenv.NeedFile(t, dir)
	againstOriginal(t, "dib-lint, all elements", dir)
}
