package element

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
)

// Packages returns the distribution packages that the elements ask for in
// their package-installs.yaml files, for one architecture in Debian's words,
// sorted. A package is a key; its value is empty or a mapping (or a list of
// mappings) that may hold arch and not-arch, comma-separated. Keys whose
// effect is not there yet are refused rather than ignored.
func Packages(elements []*Element, arch string) ([]string, error) {
	set := map[string]bool{}
	for _, e := range elements {
		file := filepath.Join(e.Dir, "package-installs.yaml")
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var doc map[string]yaml.Node
		if err := yaml.Unmarshal(b, &doc); err != nil {
			return nil, command.BadInput(fmt.Errorf("%s: %w", file, err), "it must map package names to nothing or to options")
		}
		for _, name := range slices.Sorted(maps.Keys(doc)) {
			node := doc[name]
			if !PackageName(name) {
				return nil, command.BadInput(fmt.Errorf("%s:%d: %q: not a package name", file, node.Line, name), "")
			}
			want, err := wanted(&node, arch)
			if err != nil {
				return nil, command.BadInput(fmt.Errorf("%s:%d: %s: %w", file, node.Line, name, err), "")
			}
			if want {
				set[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

var packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+$`) // Debian policy 5.6.1

// PackageName tells whether name can be a distribution package's: it then
// holds nothing that has a meaning in a package manager's arguments.
func PackageName(name string) bool { return packageRE.MatchString(name) }

func wanted(n *yaml.Node, arch string) (bool, error) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch {
	case n.Kind == yaml.ScalarNode && (n.Tag == "!!null" || n.Value == ""):
		return true, nil
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			if want, err := wanted(item, arch); want || err != nil {
				return want, err
			}
		}
		return false, nil
	case n.Kind != yaml.MappingNode:
		return false, errors.New("options must be a mapping")
	}
	opts := map[string]string{}
	if err := n.Decode(&opts); err != nil {
		return false, err
	}
	want := true
	for _, k := range slices.Sorted(maps.Keys(opts)) {
		switch k {
		case "arch":
			want = want && listed(opts[k], arch)
		case "not-arch":
			want = want && !listed(opts[k], arch)
		default:
			return false, fmt.Errorf("option %q is not supported yet", k)
		}
	}
	return want, nil
}

func listed(list, word string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(f) == word {
			return true
		}
	}
	return false
}
