package element

import (
	"bytes"
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
		Different: []testenv.Difference{
			{Cases: n.links, Why: "a link that the original overwrites or not, by the order of elements"},
		},
		Note: fmt.Sprintf("In equal trees %d files may be either of two elements', "+
			"and %d first-level names with a dot are left out", n.order, n.dots),
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
