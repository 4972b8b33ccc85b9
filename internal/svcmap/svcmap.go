// Package svcmap translates the names that elements use for services into
// those of a distribution.
//
// An element says so in its file svc-map: YAML that maps a service to its
// name in a distribution, in a family of them, or by default. [Merge] makes
// one flat table of all elements' files for the image's distribution, which
// lies in the image as [File]; [Table.Lookup] reads it there. The format is
// diskimage-builder's.
package svcmap

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/pkgmap"
	"goldsmith/internal/yaml11"
)

// File is where the table lies in an image.
const File = "/usr/share/svc-map/services"

// Table is service → its name in one distribution.
type Table map[string]string

// Merge reads the elements' svc-map files for one distribution. That two
// elements name the same service is an error.
func Merge(elements []*element.Element, distro string) (Table, error) {
	table, from := Table{}, map[string]string{}
	for _, e := range elements {
		path := filepath.Join(e.Dir, "svc-map")
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		root, err := yaml11.Read(path)
		if err != nil {
			return nil, err
		}
		if root.Kind == yaml11.Null {
			continue
		}
		if root.Kind != yaml11.Mapping {
			return nil, bad(path, root, "expected a mapping of services, found "+root.Kind.String())
		}
		for _, p := range root.Pairs {
			service := p.Key.Text
			if other := from[service]; other != "" {
				return nil, bad(path, p.Key, fmt.Sprintf("service %s: element %s names it too", service, other))
			}
			from[service] = e.Name
			if table[service], err = name(path, service, p.Value, distro); err != nil {
				return nil, err
			}
		}
	}
	return table, nil
}

func bad(path string, n *yaml11.Node, what string) error {
	return command.BadInput(fmt.Errorf("%s:%d: %s", path, n.Line, what), "a service maps to names by distribution, family or default")
}

// name picks one service's name: that of the distribution, of its family, the
// default, or what the service is called anyway.
func name(path, service string, n *yaml11.Node, distro string) (string, error) {
	if n.Kind != yaml11.Mapping {
		return "", bad(path, n, fmt.Sprintf("service %s: expected a mapping, found %v", service, n.Kind))
	}
	for _, key := range []string{distro, pkgmap.Family(distro), "default"} {
		v := n.Get(key)
		switch {
		case key == "" || v == nil:
			continue
		case v.Kind >= yaml11.List:
			return "", bad(path, v, fmt.Sprintf("service %s: expected a name for %s, found %v", service, key, v.Kind))
		case v.Kind == yaml11.Null || v.Text == "":
			return service, nil
		}
		return v.Text, nil
	}
	return service, nil
}

// Bytes is the table as [File] holds it: YAML, one service a line, sorted.
func (t Table) Bytes() []byte {
	var b strings.Builder
	for _, s := range slices.Sorted(maps.Keys(t)) {
		fmt.Fprintf(&b, "%s: %s\n", quote(s), quote(t[s]))
	}
	if len(t) == 0 {
		return []byte("{}\n")
	}
	return []byte(b.String())
}

// quote leaves alone what every YAML reader takes for text as it is.
func quote(s string) string {
	n, err := yaml11.Parse("", []byte("- "+s))
	if err == nil && len(n.Items) == 1 && n.Items[0].Kind == yaml11.Text && n.Items[0].Text == s &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.@+") == "" {
		return s
	}
	b, _ := json.Marshal(s) // YAML reads JSON's strings; a string has no error
	return string(b)
}

// Read reads a table. One that is not there is empty.
func Read(path string) (Table, error) {
	root, err := yaml11.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Table{}, nil
	}
	if err != nil {
		return nil, err
	}
	t := Table{}
	for _, p := range root.Pairs {
		if p.Value.Kind >= yaml11.List {
			return nil, bad(path, p.Value, fmt.Sprintf("service %s: expected a name, found %v", p.Key.Text, p.Value.Kind))
		}
		t[p.Key.Text] = p.Value.Text
	}
	return t, nil
}

// Lookup is what a service is called in the system below root: its own name
// when there is a unit or job of that name, what the table says, or its own
// name.
func (t Table) Lookup(root, service string) string {
	for _, file := range []string{"lib/systemd/system/" + service + ".service", "etc/init/" + service + ".conf"} {
		if _, err := os.Stat(filepath.Join(root, file)); err == nil {
			return service
		}
	}
	if name := t[service]; name != "" {
		return name
	}
	return service
}
