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
	"goldsmith/internal/pkginstall"
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

func elementsCommand() *command.Command {
	var path string
	var asJSON bool
	return &command.Command{
		Name:  "elements",
		Args:  "[NAME...]",
		Short: "list elements, or show some of them",
		Long: `
Without a name, lists every element that can be found, with what its README
says of it. With names, shows each one's place, dependencies, packages and
hooks.`,
		Example: `imgbuild elements
imgbuild elements redis`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&path, "elements-path", "", "search elements in these `directories`, colon-separated, first")
			fs.BoolVar(&asJSON, "json", false, "print everything as JSON")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			bin, err := command.Self()
			if err != nil {
				return err
			}
			p, err := element.SearchPath(path, bin)
			if err != nil {
				return err
			}
			names := args
			if len(names) == 0 {
				names = p.Names()
			}
			infos := []*elementInfo{}
			for _, n := range names {
				i, err := describe(p, n)
				if err != nil {
					return err
				}
				infos = append(infos, i)
			}
			if asJSON {
				enc := json.NewEncoder(io.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(infos)
			}
			return printElements(io, infos, len(args) > 0)
		},
	}
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
		Deps: slices.Concat([]string{}, e.Deps), Provides: slices.Concat([]string{}, e.Provides),
	}
	plan, _, err := pkginstall.Squash([]*element.Element{e}, pkginstall.Environment{"ARCH": "amd64"})
	if err != nil {
		// What depends on a variable of the build, for instance; that is no
		// reason to hide the rest.
		i.Note = err.Error()
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
		fmt.Fprintf(w, "  \t%s\n", i.Summary)
	}
	return w.Flush()
}
