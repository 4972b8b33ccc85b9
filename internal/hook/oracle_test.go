package hook

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/element"
	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with the original over many more cases than the sample")

const (
	dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"
	dibRunParts = "/usr/lib/python3/dist-packages/diskimage_builder/lib/dib-run-parts"
)

// listOriginal is dib-run-parts --list.
func listOriginal(t *testing.T, dir string) []string {
	t.Helper()
	out, err := exec.Command(dibRunParts, "--list", dir).Output()
	if err != nil {
		t.Fatalf("dib-run-parts --list %s: %v", dir, err)
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		names = append(names, strings.TrimSuffix(strings.TrimPrefix(line, dir+"/"), "\n"))
	}
	return names
}

// mergedTrees merges elements of diskimage-builder into trees of hooks and
// calls f for each.
func mergedTrees(t *testing.T, n int, f func(names []string, dir string)) {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	path := element.Path{dibElements}
	all := slices.DeleteFunc(path.Names(), func(s string) bool { return s == "__pycache__" })
	var systems []string
	for _, name := range all {
		e, err := path.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(e.Provides, element.OperatingSystem) {
			systems = append(systems, name)
		}
	}
	rng := rand.New(rand.NewPCG(21, 22))
	for done, tries := 0, 0; done < n && tries < 50*n; tries++ {
		wanted := []string{systems[tries%len(systems)]}
		for range rng.IntN(5) {
			wanted = append(wanted, all[rng.IntN(len(all))])
		}
		els, err := path.Resolve(wanted)
		if err != nil {
			continue
		}
		dir := t.TempDir()
		if element.MergeHooks(els, dir) != nil {
			continue
		}
		f(wanted, dir)
		_ = os.RemoveAll(dir)
		done++
	}
}

// Which files of the merged trees are hooks, and in which order.
func TestOracleList(t *testing.T) {
	n := 5
	if *exhaustive {
		n = 150
	}
	dirs, hooks := 0, 0
	mergedTrees(t, n, func(_ []string, tree string) {
		phases, err := filepath.Glob(tree + "/*.d")
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range phases {
			got, err := List(dir)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(listOriginal(t, dir), got); d != "" {
				t.Errorf("%s (-original +ours):\n%s", dir, d)
			}
			dirs++
			hooks += len(got)
		}
	})
	testenv.Proof(t, testenv.Row{Matter: "run-parts order and selection, hook directories of all elements", Equal: dirs,
		Note: fmt.Sprintf("They have %d hooks", hooks), Sample: !*exhaustive})
}

// Made names of all forms, files of all kinds.
func TestOracleListMade(t *testing.T) {
	testenv.NeedFile(t, dibRunParts)
	rng := rand.New(rand.NewPCG(23, 24))
	const letters = "0123456789-_abXZ.~"
	n := 30
	if *exhaustive {
		n = 1500
	}
	names := 0
	for range n {
		dir := t.TempDir()
		for range 25 {
			var name strings.Builder
			for range 1 + rng.IntN(5) {
				if rng.IntN(3) == 0 {
					fmt.Fprintf(&name, "%d", rng.IntN(120))
				} else {
					name.WriteByte(letters[rng.IntN(len(letters))])
				}
			}
			if name.String() == "." || name.String() == ".." {
				continue
			}
			p := filepath.Join(dir, name.String())
			_ = os.Remove(p)
			switch rng.IntN(10) {
			case 0:
				_ = os.Mkdir(p, 0o755)
			case 1:
				_ = os.Symlink("/bin/true", p)
			case 2:
				_ = os.Symlink("nothing", p)
			case 3:
				_ = os.WriteFile(p, nil, 0o644)
			default:
				_ = os.WriteFile(p, nil, 0o755)
			}
		}
		got, err := List(dir)
		if err != nil {
			t.Fatal(err)
		}
		// A made name may begin with a dash, which echo of the original takes
		// for an option at most behind the directory's name: it never does.
		if d := cmp.Diff(listOriginal(t, dir), got); d != "" {
			t.Errorf("(-original +ours):\n%s", d)
		}
		names += len(got)
		_ = os.RemoveAll(dir)
	}
	testenv.Proof(t, testenv.Row{Matter: "run-parts order and selection, made directories", Equal: n,
		Note: fmt.Sprintf("They have %d hooks", names), Sample: !*exhaustive})
}

// show is a hook that writes down its environment.
const show = "#!/bin/sh\nexec env -0 >\"$OUT\"\n"

// hookEnvironment is what a hook of dir sees when run is what runs it.
func hookEnvironment(t *testing.T, out string, run func() error) (map[string]string, error) {
	t.Helper()
	_ = os.Remove(out)
	if err := run(); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(out)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("no hook was run")
	}
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for pair := range strings.SplitSeq(strings.TrimSuffix(string(b), "\x00"), "\x00") {
		name, value, _ := strings.Cut(pair, "=")
		env[name] = value
	}
	// These are the shell's own: how deep it is, and the last command.
	for _, own := range []string{"_", "SHLVL", "OLDPWD", "PWD"} {
		delete(env, own)
	}
	return env, nil
}

// environments compares what a hook sees after environment.d has been sourced
// the original's way and ours.
type environments struct{ equal, failed, variables int }

func (n *environments) row(matter string) testenv.Row {
	return testenv.Row{Matter: matter, Equal: n.equal, Refused: n.failed, Sample: !*exhaustive}
}

func (n *environments) compare(t *testing.T, what, tree string, given []string) {
	t.Helper()
	dir := filepath.Join(tree, "oracle.d")
	out := filepath.Join(tree, "out")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/10-show", []byte(show), 0o755)); err != nil {
		t.Fatal(err)
	}
	given = append(slices.Clone(given), "OUT="+out)
	want, theirErr := hookEnvironment(t, out, func() error {
		cmd := exec.Command(dibRunParts, dir)
		cmd.Env = given
		return cmd.Run()
	})
	got, ourErr := hookEnvironment(t, out, func() error {
		r := Runner{Dir: dir, Env: given}
		return r.Run(t.Context())
	})
	switch {
	case (theirErr == nil) != (ourErr == nil):
		t.Errorf("%s: original %v; ours %v", what, theirErr, ourErr)
	case theirErr != nil:
		n.failed++
	default:
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-original +ours):\n%s", what, d)
			return
		}
		n.equal++
		n.variables += len(got) - len(given)
	}
}

// The environments of diskimage-builder's elements, for several releases and
// architectures.
func TestOracleEnvironment(t *testing.T) {
	n := 6
	if *exhaustive {
		n = 300
	}
	rng := rand.New(rand.NewPCG(25, 26))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	var count environments
	mergedTrees(t, n, func(names []string, tree string) {
		given := map[string]string{
			"PATH": os.Getenv("PATH"), "HOME": "/root", "LC_ALL": "C", "ARCH": pick("amd64", "arm64", "ppc64le"), "IMAGE_NAME": "an image",
			"IMAGE_ELEMENT": strings.Join(names, " "), "DIB_DEBUG_TRACE": pick("0", "1"),
		}
		for _, v := range [][2]string{ // in one order, or the next tree would be another
			{"DIB_RELEASE", pick("bookworm", "9", "8-stream", "40", "jammy")},
			{"DIB_INIT_SYSTEM", pick("systemd", "nonsense")},
			{"DIB_EXTLINUX", "1"}, {"DIB_DISTRIBUTION_MIRROR", "http://mirror/'quotes' and \"blanks\""},
			{"DIB_DEFAULT_INSTALLTYPE", "source"}, {"DIB_CLOUD_INIT_DATASOURCES", "Ec2, NoCloud"},
			{"GENTOO_PROFILE", "default/linux/amd64/17.1"},
		} {
			if rng.IntN(3) > 0 {
				given[v[0]] = v[1]
			}
		}
		var env []string
		for _, k := range slices.Sorted(maps.Keys(given)) {
			env = append(env, k+"="+given[k])
		}
		count.compare(t, strings.Join(names, " "), tree, env)
	})
	row := count.row("environment.d of all elements: what hooks inherit")
	row.Note = fmt.Sprintf("The elements export %d variables", count.variables)
	testenv.Proof(t, row)
}

// Made snippets do all kinds of things to an environment. Not among them is
// what only breaks the original's own loop: another IFS, a trap on its exit.
func TestOracleEnvironmentMade(t *testing.T) {
	testenv.NeedFile(t, dibRunParts)
	rng := rand.New(rand.NewPCG(27, 28))
	lines := []string{
		"export A=1", "export A=\"$B\"", "B=2", "export B", "export -n B", "unset A", "export C='two\nlines'", "export D=$'\\t\\x01'", "export A=${A:-x} B=y",
		"f() { echo f; }; export -f f", "unset -f f", "set -a; E=auto; set +a", "declare -x G=g", "readonly R=${R:-1} 2>/dev/null || true; export R", "PATH=$PATH:/x",
		"cd /", "umask 027", "set +u; export H=$UNSET; set -u", "export I=${!A:-none}", "export J=$(printf 'a b')", "export K=()", "declare -A L=([a]=b)", "export L",
		"[[ x =~ y ]] && export M=1", "if false; then export N=1; fi", "false || export O=1", "echo said", "shopt -s nullglob", "local X=1 || true",
		"export _P=under", "exec 5>/dev/null", "export Q=\"a,b\"", "source <(echo export S=s)", "return 0", "export LC_ALL=C.UTF-8",
	}
	fatal := []string{"false", "exit 3", "export A=$UNSET", "echo ${B?not set}", "(exit 4)", "syntax error (", "true | false", "return 1"}
	n := 30
	if *exhaustive {
		n = 1000
	}
	var count environments
	for i := range n {
		tree := t.TempDir()
		for range 1 + rng.IntN(4) {
			var text strings.Builder
			for range 1 + rng.IntN(6) {
				text.WriteString(lines[rng.IntN(len(lines))] + "\n")
			}
			if rng.IntN(25) == 0 {
				text.WriteString(fatal[rng.IntN(len(fatal))] + "\n")
			}
			name := fmt.Sprintf("%d-%s", rng.IntN(120), []string{"a", "b.bash", "c~", "d e", "f.sh"}[rng.IntN(5)])
			if strings.Contains(name, " ") {
				name = strings.ReplaceAll(name, " ", "_")
			}
			p := filepath.Join(tree, "environment.d", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text.String()), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		// The original fails where environment.d has no snippet at all.
		if err := errors.Join(os.MkdirAll(tree+"/environment.d", 0o755), os.WriteFile(tree+"/environment.d/50-empty", nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		count.compare(t, fmt.Sprintf("case %d", i), tree, []string{"PATH=" + os.Getenv("PATH"), "A=given", "Z=kept", "HOME=/root"})
		if t.Failed() {
			files, _ := filepath.Glob(tree + "/environment.d/*")
			for _, f := range files {
				b, _ := os.ReadFile(f)
				t.Logf("%s:\n%s", f, b)
			}
			break
		}
		_ = os.RemoveAll(tree)
	}
	testenv.Proof(t, count.row("environment.d, made snippets"))
}
