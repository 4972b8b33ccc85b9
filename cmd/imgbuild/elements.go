package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/lint"
	"goldsmith/internal/pkginstall"
	"goldsmith/internal/yaml11"
)

// elementInfo is what 'imgbuild elements' says of one element.
type elementInfo struct {
	Name     string              `json:"name"`
	Dir      string              `json:"dir"`
	Summary  string              `json:"summary,omitempty"` // the first paragraph of its README
	Deps     []string            `json:"deps"`
	Provides []string            `json:"provides"`
	Packages []string            `json:"packages"`        // as elements name them, on amd64
	Hooks    map[string][]string `json:"hooks,omitempty"` // by directory
	Note     string              `json:"note,omitempty"`  // what could not be read
}

// elementsFlags are the flags of 'imgbuild elements'.
type elementsFlags struct {
	path      string
	json, dib bool
}

func elementsCommand() *command.Command {
	var f elementsFlags
	return &command.Command{
		Name:  "elements",
		Args:  "[list | show NAME... | lint [DIRECTORY|NAME...]]",
		Short: "list, show and check elements",
		Long: `
list names every element that can be found, with what its README says of it.
show tells each one's place, dependencies, packages and hooks. lint looks for
mistakes in elements: those named, those in a directory, or all that can be
found; it prints a line 'file:line: rule: message' for each and ends with 1
when there is one. Without a word, elements are listed.`,
		Example: `imgbuild elements show redis
imgbuild elements lint my-elements`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&f.path, "elements-path", "", "search elements in these `directories`, colon-separated, first")
			fs.BoolVar(&f.json, "json", false, "print everything as JSON")
			fs.BoolVar(&f.dib, "dib", false, "lint: with the rules for diskimage-builder's own elements")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			bin, err := command.Self()
			if err != nil {
				return err
			}
			p, err := element.SearchPath(f.path, bin)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				args = []string{"list"}
			}
			switch verb, names := args[0], args[1:]; {
			case verb == "list" && len(names) == 0:
				return f.show(io, p, p.Names(), false)
			case verb == "list":
				return command.Usage("list takes no names", "imgbuild elements show "+names[0])
			case verb == "show" && len(names) > 0:
				return f.show(io, p, names, true)
			case verb == "show":
				return command.Usage("show needs the name of an element", "imgbuild elements list")
			case verb == "lint":
				return f.lint(io, p, names)
			default:
				return command.Usage(fmt.Sprintf("unknown word %q", verb), "expected list, show or lint")
			}
		},
	}
}

// show prints elements, whole or a line for each.
func (f *elementsFlags) show(io command.IO, p element.Path, names []string, whole bool) error {
	infos := []*elementInfo{}
	for _, n := range names {
		i, err := describe(p, n)
		if err != nil {
			return err
		}
		infos = append(infos, i)
	}
	if f.json {
		return printJSON(io, infos)
	}
	return printElements(io, infos, whole)
}

// lint prints what is wrong with elements.
func (f *elementsFlags) lint(io command.IO, p element.Path, args []string) error {
	dirs, err := lintDirs(p, args)
	if err != nil {
		return err
	}
	ignore, err := lint.Ignored(".")
	if err != nil {
		return err
	}
	found, err := lint.Elements(dirs, lint.Options{DIB: f.dib, Ignore: ignore})
	if err != nil {
		return err
	}
	if f.json {
		if err := printJSON(io, append([]lint.Finding{}, found...)); err != nil {
			return err
		}
	} else {
		for _, x := range found {
			fmt.Fprintln(io.Stdout, x)
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("lint: %d findings in %d elements", len(found), len(dirs))
	}
	return nil
}

// lintDirs are the elements that arguments mean: names, elements' directories,
// directories of elements. None means everything in the path.
func lintDirs(p element.Path, args []string) ([]string, error) {
	if len(args) == 0 {
		args = p
	}
	var dirs []string
	for _, a := range args {
		fi, err := os.Stat(a)
		if err != nil || !strings.Contains(a, "/") && !fi.IsDir() {
			e, err := p.Find(a)
			if err != nil {
				return nil, err
			}
			if e == nil {
				return nil, command.Usage(fmt.Sprintf("%s: neither a directory nor an element", a),
					"searched in "+strings.Join(p, ", "))
			}
			dirs = append(dirs, e.Dir)
			continue
		}
		if isElement(a) {
			dirs = append(dirs, a)
			continue
		}
		for _, n := range (element.Path{a}).Names() {
			if n != "__pycache__" {
				dirs = append(dirs, filepath.Join(a, n))
			}
		}
	}
	return dirs, nil
}

// isElement tells an element from a directory of elements.
func isElement(dir string) bool {
	for _, pattern := range []string{"README.*", "element-deps", "element-provides", "package-installs.*", "*.d"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			continue
		}
		for _, f := range found {
			// A directory element-deps would be an element of that name.
			if fi, err := os.Stat(f); err == nil && fi.IsDir() == strings.HasSuffix(f, ".d") {
				return true
			}
		}
	}
	return false
}

func printJSON(io command.IO, v any) error {
	enc := json.NewEncoder(io.Stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// namedPackages are all that an element's package-installs files name, whatever
// they make it depend on.
func namedPackages(dir string) []string {
	names := []string{}
	for _, file := range []string{"package-installs.yaml", "package-installs.json"} {
		root, err := yaml11.ReadJSONFirst(filepath.Join(dir, file))
		if err != nil {
			continue // the note says why
		}
		for _, p := range root.Pairs {
			names = append(names, p.Key.Text)
		}
	}
	return names
}

func describe(p element.Path, name string) (*elementInfo, error) {
	e, err := p.Find(name)
	if err != nil {
		return nil, err
	}
	if e == nil {
		return nil, command.Usage(fmt.Sprintf("element %q: not found", name), "searched in "+strings.Join(p, ", "))
	}
	i := &elementInfo{
		Name: e.Name, Dir: e.Dir, Summary: summary(e.Dir), Packages: []string{}, Hooks: map[string][]string{},
		Deps: append([]string{}, e.Deps...), Provides: append([]string{}, e.Provides...),
	}
	plan, _, err := pkginstall.Squash([]*element.Element{e}, pkginstall.Environment{"ARCH": "amd64"})
	if err != nil {
		// What depends on a variable of the build, for instance; that is no
		// reason to hide the rest.
		i.Note = err.Error()
		i.Packages = namedPackages(e.Dir)
	}
	for _, phase := range pkginstall.Phases {
		for _, p := range plan[phase].Install {
			i.Packages = append(i.Packages, p.Package)
		}
	}
	slices.Sort(i.Packages)
	dirs, err := filepath.Glob(filepath.Join(e.Dir, "*.d"))
	if err != nil {
		return nil, err
	}
	more, err := filepath.Glob(filepath.Join(e.Dir, "os-refresh-config", "*.d"))
	if err != nil {
		return nil, err
	}
	for _, d := range append(dirs, more...) {
		entries, err := os.ReadDir(d)
		if err != nil {
			return nil, err
		}
		rel, _ := filepath.Rel(e.Dir, d)
		for _, h := range entries {
			i.Hooks[rel] = append(i.Hooks[rel], h.Name())
		}
	}
	return i, nil
}

// summary is the first paragraph of a README that is not a heading.
func summary(dir string) string {
	var text []byte
	for _, name := range []string{"README.md", "README.rst"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		text = b
		break
	}
	for para := range strings.SplitSeq(string(text), "\n\n") {
		para = strings.Join(strings.Fields(para), " ")
		if para != "" && !strings.HasPrefix(para, "#") && !strings.HasSuffix(para, "===") {
			return para
		}
	}
	return ""
}

func printElements(io command.IO, infos []*elementInfo, whole bool) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	for _, i := range infos {
		if !whole {
			sentence, _, _ := strings.Cut(i.Summary, ". ")
			fmt.Fprintf(w, "%s\t%s\n", i.Name, strings.TrimSuffix(sentence, "."))
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", i.Name, i.Dir)
		for _, f := range []struct {
			name  string
			words []string
		}{{"depends on", i.Deps}, {"provides", i.Provides}, {"packages", i.Packages}} {
			if len(f.words) > 0 {
				fmt.Fprintf(w, "  %s\t%s\n", f.name, strings.Join(f.words, " "))
			}
		}
		for _, dir := range slices.Sorted(maps.Keys(i.Hooks)) {
			fmt.Fprintf(w, "  %s\t%s\n", dir, strings.Join(i.Hooks[dir], " "))
		}
		if i.Note != "" {
			fmt.Fprintf(w, "  note\t%s\n", i.Note)
		}
		if i.Summary != "" {
			fmt.Fprintf(w, "  \t%s\n", i.Summary)
		}
	}
	return w.Flush()
}
