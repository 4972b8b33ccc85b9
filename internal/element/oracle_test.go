package element

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with the original over many more cases than the sample")

const (
	dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"
	dibLib      = "/usr/lib/python3/dist-packages/diskimage_builder/lib"
)

// resolverScript calls the original once for each case. An error is a word.
const resolverScript = `
import json, logging, sys
import diskimage_builder.element_dependencies as d
logging.disable(logging.CRITICAL)
kinds = {d.MissingElementException: "!missing", d.AlreadyProvidedException: "!provided", d.MissingOSException: "!os"}
results, read = [], {}
for path, wanted in json.load(sys.stdin):
    if path not in read: read[path] = d._find_all_elements(path)
    try:
        results.append(" ".join(sorted(e.name for e in d._expand_element_dependencies(wanted, read[path]))))
    except Exception as e:
        results.append(kinds.get(type(e), repr(e)))
json.dump(results, sys.stdout)
`

type resolveCase struct {
	path   string
	wanted []string
}

func (c resolveCase) MarshalJSON() ([]byte, error) { return json.Marshal([]any{c.path, c.wanted}) }

// originals runs the original over all cases with several seeds for the order
// of its sets: results by case, then seed.
func originals(t *testing.T, cases []resolveCase, seeds int) [][]string {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	out := make([][]string, len(cases))
	for seed := range seeds {
		var results []string
		testenv.Python(t, resolverScript, cases, &results, []string{fmt.Sprintf("PYTHONHASHSEED=%d", seed+1)})
		for i, r := range results {
			out[i] = append(out[i], r)
		}
	}
	return out
}

// resolved is what ours makes of a case, in the original's words.
func resolved(c resolveCase) string {
	els, err := Path{c.path}.Resolve(c.wanted)
	if err == nil {
		return Names(els)
	}
	for part, word := range map[string]string{
		"not found": "!missing", "already provided by": "!provided", "no element provides": "!os", "provides its own name": "!itself", "not a valid name": "!missing",
	} {
		if strings.Contains(err.Error(), part) {
			return word
		}
	}
	return err.Error()
}

// tally counts outcomes of comparisons.
type tally struct {
	equal, itself, twice, reasons int
	differ                        []string
}

func compareResolved(t *testing.T, cases []resolveCase) tally {
	t.Helper()
	var n tally
	for i, want := range originals(t, cases, 6) {
		got := resolved(cases[i])
		distinct := slices.Compact(slices.Sorted(slices.Values(want)))
		switch {
		case len(distinct) > 1:
			n.itself++ // the original's answer depends on the seed
		case distinct[0] == got:
			n.equal++
		case distinct[0] == "!provided" && repeated(cases[i].wanted):
			n.twice++ // the original takes an element that is named twice for another provider
		case distinct[0][0] == '!' && got[0] == '!':
			n.reasons++ // both refuse, and name another one of several reasons
		default:
			n.differ = append(n.differ, fmt.Sprintf("%v: original %s; ours %s", cases[i].wanted, distinct[0], got))
		}
	}
	return n
}

func repeated(words []string) bool {
	return len(slices.Compact(slices.Sorted(slices.Values(words)))) < len(words)
}

func (n tally) row(matter string) testenv.Row {
	return testenv.Row{Matter: matter, Equal: n.equal, Sample: !*exhaustive, Different: []testenv.Difference{
		{Cases: n.reasons, Why: "both refuse, for another of several reasons"},
		{Cases: n.twice, Why: "an element is named twice, which only the original refuses"},
		{Cases: n.itself, Why: "the original differs with itself by hash seed"},
	}}
}

func elementDirs(t *testing.T) (all, systems []string) {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	for _, n := range (Path{dibElements}).Names() {
		if n == "__pycache__" {
			continue
		}
		all = append(all, n)
		e, err := Path{dibElements}.Find(n)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(e.Provides, OperatingSystem) {
			systems = append(systems, n)
		}
	}
	return all, systems
}

// Every element of diskimage-builder, every one with every operating system,
// and random sets, resolve to the same elements or the same kind of error.
func TestOracleResolve(t *testing.T) {
	all, systems := elementDirs(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var cases []resolveCase
	for _, e := range all {
		cases = append(cases, resolveCase{dibElements, []string{e}})
		for _, s := range systems {
			cases = append(cases, resolveCase{dibElements, []string{s, e}})
		}
	}
	triples := 400
	if *exhaustive {
		triples = 20000
	}
	for range triples {
		c := resolveCase{dibElements, []string{systems[rng.IntN(len(systems))]}}
		for range 2 + rng.IntN(3) {
			c.wanted = append(c.wanted, all[rng.IntN(len(all))])
		}
		rng.Shuffle(len(c.wanted), func(i, j int) { c.wanted[i], c.wanted[j] = c.wanted[j], c.wanted[i] })
		cases = append(cases, c)
	}
	n := compareResolved(t, cases)
	for _, d := range n.differ {
		t.Error(d)
	}
	testenv.Proof(t, n.row("resolution, all elements: single, with every operating system, random sets"))
}

// Made elements that provide for each other in all ways: where the original's
// answer does not depend on a seed, ours is the same, or leaves out what was
// pulled in only by a name that another element provides.
func TestOracleResolveMade(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	worlds := 150
	if *exhaustive {
		worlds = 5000
	}
	names := []string{"a", "b", "c", "d", "e", "v", "w"}
	some := func(n int) string {
		var out []string
		for range rng.IntN(n + 1) {
			out = append(out, names[rng.IntN(len(names))])
		}
		return strings.Join(out, " ")
	}
	top := t.TempDir()
	var cases []resolveCase
	for i := range worlds {
		els := map[string][2]string{"os": {some(1), "operating-system"}}
		for _, n := range names[:5] {
			provides := ""
			if rng.IntN(4) == 0 {
				if p := names[rng.IntN(len(names))]; p != n { // of its own name: TestErrors
					provides = p
				}
			}
			els[n] = [2]string{some(2), provides}
		}
		if rng.IntN(2) == 0 {
			els["v"] = [2]string{some(1), ""} // a directory of a name that may be provided
		}
		dir := fmt.Sprintf("%s/%d", top, i)
		write(t, dir, els)
		for range 4 {
			cases = append(cases, resolveCase{dir, append(strings.Fields(some(3)), "os")})
		}
	}
	n := compareResolved(t, cases)
	fewer, more := 0, 0
	for _, d := range n.differ {
		_, rest, _ := strings.Cut(d, ": original ")
		theirs, ours, _ := strings.Cut(rest, "; ours ")
		switch {
		case theirs[0] != '!' && ours[0] != '!' && subset(strings.Fields(ours), strings.Fields(theirs)):
			fewer++
		case theirs == "!missing" && ours[0] != '!':
			more++ // the name is provided by an element that the original sees too late
		default:
			t.Error(d)
		}
	}
	row := n.row("resolution, made elements")
	row.Different = append(row.Different, testenv.Difference{Cases: fewer, Why: "ours leaves out what only a provided name pulled in"},
		testenv.Difference{Cases: more, Why: "the original does not see the provider"})
	testenv.Proof(t, row)
}

func subset(of, in []string) bool {
	return !slices.ContainsFunc(of, func(w string) bool { return !slices.Contains(in, w) })
}

// merged runs the original's merge.
func merged(t *testing.T, els []*Element, dest string) error {
	t.Helper()
	var array strings.Builder
	for _, e := range els {
		fmt.Fprintf(&array, "[%s]=%s ", e.Name, e.Dir)
	}
	script := `set -e; source $_LIB/die; source $_LIB/common-functions
get_image_element_array() { echo "$ARRAY"; }
export TMP_HOOKS_PATH=$1; generate_hooks`
	cmd := exec.Command("bash", "-c", script, "bash", dest)
	cmd.Env = append(os.Environ(), "_LIB="+dibLib, "LC_ALL=C", "ARRAY="+array.String())
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out[bytes.LastIndexByte(bytes.TrimSpace(out), '\n')+1:])
	}
	return nil
}

// node is a file, directory or link of a merged tree.
type node struct {
	Kind    fs.FileMode
	Content string // of a file; of a link, where it leads
	Exec    bool
}

func walk(t *testing.T, dir string) map[string]node {
	t.Helper()
	out := map[string]node{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		n := node{Kind: d.Type()}
		switch d.Type() {
		case 0:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			n.Content, n.Exec = string(b), fi.Mode()&0o100 != 0
		case fs.ModeSymlink:
			n.Content, err = os.Readlink(p)
		}
		out[rel] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// mergeTally counts what comparing merges came to.
type mergeTally struct{ equal, refused, order, dots, links int }

func (n mergeTally) row(matter string) testenv.Row {
	return testenv.Row{
		Matter: matter, Equal: n.equal, Refused: n.refused, Sample: !*exhaustive,
		Different: []testenv.Difference{{Cases: n.links, Why: "a link that the original overwrites or not, by the order of elements"}},
		Note: fmt.Sprintf("In equal trees %d files may be either of two elements', and %d first-level names with a dot are left out",
			n.order, n.dots),
	}
}

// compareMerges merges elements both ways and compares what comes out, file by
// file.
func (n *mergeTally) compare(t *testing.T, els []*Element) {
	t.Helper()
	tmp := t.TempDir()
	defer os.RemoveAll(tmp)
	theirErr := merged(t, els, tmp+"/theirs")
	ourErr := MergeHooks(els, tmp+"/ours")
	if theirErr != nil || ourErr != nil {
		switch {
		case theirErr != nil && ourErr != nil:
			n.refused++
		case ourErr != nil && linkThere(els, ourErr), theirErr != nil && overLink(theirErr):
			n.links++ // the original fails or not by order; ours refuses in hooks, and lets the later win below
		default:
			t.Errorf("%s: original %v; ours %v", Names(els), theirErr, ourErr)
		}
		return
	}
	theirs, ours := walk(t, tmp+"/theirs"), walk(t, tmp+"/ours")
	same := true
	for rel := range theirs {
		if strings.HasPrefix(rel, ".") && rel != "." {
			delete(theirs, rel) // first-level names with a dot are left out on purpose
			n.dots++
		}
	}
	for rel, their := range theirs {
		if d := cmp.Diff(their, ours[rel]); d != "" && oneOf(t, els, rel, their) && oneOf(t, els, rel, ours[rel]) {
			n.order++ // of two elements that have it, either may win
		} else if d != "" {
			t.Errorf("%s: %s (-original +ours):\n%s", Names(els), rel, d)
			same = false
		}
		delete(ours, rel)
	}
	for rel := range ours {
		t.Errorf("%s: %s is not in the original's tree", Names(els), rel)
	}
	if same {
		n.equal++
	}
}

// oneOf tells whether some, but not all, of several elements with a path have
// there what n is.
func oneOf(t *testing.T, els []*Element, rel string, n node) bool {
	t.Helper()
	have, same := 0, 0
	for _, e := range els {
		p := filepath.Join(e.Dir, rel)
		fi, err := os.Lstat(p)
		if err != nil {
			continue
		}
		have++
		content, _ := os.Readlink(p)
		if fi.Mode().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			content = string(b)
		}
		if fi.Mode().Type() == n.Kind && content == n.Content {
			same++
		}
	}
	return have > 1 && same > 0
}

// overLink tells whether the original failed at copying a file over a link.
func overLink(err error) bool {
	return strings.Contains(err.Error(), "dangling symlink") || strings.Contains(err.Error(), "cannot overwrite directory")
}

// linkThere tells whether an error is about a path that is a link in one of
// the elements.
func linkThere(els []*Element, err error) bool {
	return slices.ContainsFunc(els, func(e *Element) bool {
		links, _ := filepath.Glob(e.Dir + "/*/*")
		return slices.ContainsFunc(links, func(l string) bool {
			fi, statErr := os.Lstat(l)
			rel, _ := filepath.Rel(e.Dir, l)
			return statErr == nil && fi.Mode()&fs.ModeSymlink != 0 && strings.Contains(err.Error(), rel)
		})
	})
}

// The trees of hooks that images of diskimage-builder's elements get.
func TestOracleMerge(t *testing.T) {
	all, systems := elementDirs(t)
	testenv.Need(t, "bash")
	rng := rand.New(rand.NewPCG(5, 6))
	sets := 4
	if *exhaustive {
		sets = 250
	}
	var n mergeTally
	done := 0
	for tries := 0; done < sets && tries < 100*sets; tries++ {
		wanted := []string{systems[rng.IntN(len(systems))], all[rng.IntN(len(all))], all[rng.IntN(len(all))]}
		if done < len(systems) && *exhaustive {
			wanted = []string{systems[done], "vm", "block-device-mbr"}
		}
		els, err := Path{dibElements}.Resolve(wanted)
		if err != nil {
			if command.Status(err) != command.StatusUsage {
				t.Error(err)
			}
			if done < len(systems) && *exhaustive {
				done++
			}
			continue
		}
		n.compare(t, els)
		done++
	}
	testenv.Proof(t, n.row("merged hook trees, all elements"))
}

// Made elements with the same names in all ways.
func TestOracleMergeMade(t *testing.T) {
	testenv.NeedFile(t, dibLib)
	rng := rand.New(rand.NewPCG(8, 9))
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	worlds := 30
	if *exhaustive {
		worlds = 1500
	}
	var n mergeTally
	for range worlds {
		dir := t.TempDir()
		var els []*Element
		for _, name := range []string{"a", "b", "c"} {
			e := &Element{Name: name, Dir: filepath.Join(dir, name)}
			for range 1 + rng.IntN(5) {
				first := pick("install.d", "static", "tests", "bin", "__pycache__", ".hidden-"+name, "os-apply-config")
				p := filepath.Join(e.Dir, first, pick("10-x", "20-y", "30-"+name, "z.sh", "etc", "etc/f", "etc/g", "etc/deep/h"))
				if rng.IntN(4) == 0 {
					p = filepath.Join(e.Dir, pick("README.rst", "pkg-map", "x.pyc", ".dot", "element-deps"))
				}
				if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
					continue
				}
				if fi, err := os.Lstat(p); err == nil && fi.IsDir() {
					continue
				}
				_ = os.Remove(p)
				if rng.IntN(6) == 0 {
					_ = os.Symlink(pick("f", "../nothing", "/etc"), p)
					if filepath.Dir(p) == e.Dir {
						_ = os.Remove(p) // a first-level link to nothing: TestErrors
					}
					continue
				}
				if err := os.WriteFile(p, []byte(name), os.FileMode([]int{0o644, 0o755}[rng.IntN(2)])); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.MkdirAll(e.Dir, 0o755); err != nil {
				t.Fatal(err)
			}
			els = append(els, e)
		}
		n.compare(t, els)
		_ = os.RemoveAll(dir)
	}
	testenv.Proof(t, n.row("merged hook trees, made elements"))
}
