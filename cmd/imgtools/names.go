package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/pkgmap"
	"goldsmith/internal/svcmap"
	"goldsmith/internal/yaml11"
)

// mapPackages is pkg-map. What it does not know as an option is a name, as in
// the original.
func mapPackages(_ context.Context, c *caller, _ string, args []string) error {
	distro, release := c.env["DISTRO_NAME"], c.env["DIB_RELEASE"]
	var of, file, prefix string
	var missingOK, debug bool
	packages, err := options{
		values: map[string]*string{"--element": &of, "--pkg-map": &file, "--distro": &distro, "--release": &release, "--prefix": &prefix},
		flags:  map[string]*bool{"--missing-ok": &missingOK, "--debug": &debug},
		keep:   true,
	}.parse(args)
	switch {
	case err != nil:
		return err
	case of == "" && file == "":
		return command.Hint(errors.New("no element given"), "name one with --element")
	case of != "" && file != "":
		return errors.New("--element and --pkg-map exclude each other")
	case distro == "":
		return command.Hint(errors.New("no distribution given"), "name one with --distro, or set DISTRO_NAME")
	case file == "":
		file = c.path(filepath.Join(pkgmap.Dir, of))
	}
	m, err := pkgmap.Read(file)
	if errors.Is(err, fs.ErrNotExist) {
		if !missingOK {
			return &exit{2, fmt.Errorf("%s: no such package map", file)}
		}
		m, err = &pkgmap.Map{}, nil
	}
	if err != nil {
		return err
	}
	lines, err := m.Translate(distro, release, packages, missingOK)
	for _, l := range lines {
		fmt.Fprintf(c.Stdout, "%s%s\n", prefix, l)
	}
	if debug {
		fmt.Fprintf(c.Stderr, "pkg-map: %s for %s %s: %s -> %s\n", file, distro, release, strings.Join(packages, " "), strings.Join(lines, " "))
	}
	return err
}

// mapServices is svc-map. Every argument is a service.
func mapServices(_ context.Context, c *caller, _ string, args []string) error {
	table, err := svcmap.Read(c.path(svcmap.File))
	if err != nil {
		return err
	}
	for _, service := range args {
		fmt.Fprintln(c.Stdout, table.Lookup(c.root, service))
	}
	return nil
}

// mergeServices writes the table that svc-map reads.
func mergeServices(_ context.Context, c *caller, _ string, args []string) error {
	distro := c.env["DISTRO_NAME"]
	elements, file, err := c.elementsAndFile(args, map[string]*string{"--distro": &distro})
	if err != nil {
		return err
	}
	if distro == "" {
		return command.Hint(errors.New("no distribution given"), "name one with --distro, or set DISTRO_NAME")
	}
	table, err := svcmap.Merge(elements, distro)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, table.Bytes(), 0o644)
}

// elementsAndFile reads the arguments that the tools for the host share:
// which elements, where they lie, and what to write. A hook that names no
// elements means those of the image, which the builder has told it.
func (c *caller) elementsAndFile(args []string, more map[string]*string) ([]*element.Element, string, error) {
	var names, list string
	values := map[string]*string{"--elements": &names, "--path": &list}
	for n, v := range more {
		values[n] = v
	}
	words, err := options{values: values}.parse(args)
	switch {
	case err != nil:
		return nil, "", err
	case len(words) != 1:
		return nil, "", usage("expected one file to write, found %d words", len(words))
	case names == "" && list == "" && c.env[imageElements] != "":
		elements, err := told(c.env[imageElements])
		return elements, words[0], err
	case names == "" || list == "":
		return nil, "", usage("--elements and --path are required")
	}
	path, err := element.ParsePath(list)
	if err != nil {
		return nil, "", err
	}
	var out []*element.Element
	for name := range strings.FieldsSeq(names) {
		e, err := path.Find(name)
		if err != nil {
			return nil, "", err
		}
		if e == nil {
			return nil, "", command.Hint(fmt.Errorf("element %q: not found", name), "searched in "+list)
		}
		out = append(out, e)
	}
	return out, words[0], nil
}

// imageElements holds, in hooks, the image's elements: a YAML mapping of names
// to directories.
const imageElements = "IMAGE_ELEMENT_YAML"

// told reads the variable.
func told(text string) ([]*element.Element, error) {
	root, err := yaml11.Parse(imageElements, []byte(text))
	if err != nil {
		return nil, err
	}
	if root.Kind != yaml11.Mapping {
		return nil, fmt.Errorf("%s: expected a mapping, found %v", imageElements, root.Kind)
	}
	var out []*element.Element
	for _, p := range root.Pairs {
		out = append(out, &element.Element{Name: p.Key.Text, Dir: p.Value.Text})
	}
	return out, nil
}
