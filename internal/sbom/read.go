package sbom

import (
	"bufio"
	"fmt"
	"net/url"
	"path"
	"strings"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/tree"
)

// Read fills in what a root file system knows: the operating system and the
// packages. The rest is for the caller: name, version, elements, and the
// packages' digests.
func Read(t *tree.Tree) (Image, error) {
	m := Image{OS: readOS(t)}
	status, err := read(t, dpkg.StatusFile)
	if err != nil || status == "" {
		return m, err
	}
	installed, err := dpkg.Installed(strings.NewReader(status))
	if err != nil {
		return m, err
	}
	more, err := details(status)
	if err != nil {
		return m, err
	}
	for _, d := range installed {
		p := more[d]
		p.Package = d
		text, err := copyright(t, d.Name)
		if err != nil {
			return m, err
		}
		p.License, p.Copyright, p.Refs = parseCopyright(p.source(), text)
		m.Packages = append(m.Packages, p)
	}
	return m, nil
}

func readOS(t *tree.Tree) OS {
	var o OS
	for _, p := range []string{"usr/lib/os-release", "etc/os-release"} {
		text, err := read(t, p)
		if err != nil || text == "" {
			continue
		}
		for line := range strings.Lines(text) {
			switch key, value, _ := strings.Cut(strings.TrimSpace(line), "="); key {
			case "ID":
				o.ID = strings.Trim(value, `"'`)
			case "VERSION_ID":
				o.Version = strings.Trim(value, `"'`)
			}
		}
		break
	}
	return o
}

// read returns a file's content, "" when there is none.
func read(t *tree.Tree, p string) (string, error) {
	e := t.Lookup(p)
	if e == nil || e.Kind() != tree.ModeRegular {
		return "", nil
	}
	b, err := e.ReadFile()
	return string(b), err
}

// maxLine bounds a line of a status file, in bytes.
const maxLine = 1 << 20

// details reads the fields of a status file that dpkg.Installed leaves.
func details(status string) (map[dpkg.Package]Package, error) {
	out := map[dpkg.Package]Package{}
	var p Package
	s := bufio.NewScanner(strings.NewReader(status + "\n\n"))
	s.Buffer(nil, maxLine)
	for s.Scan() {
		line := s.Text()
		if line == "" {
			out[p.Package], p = p, Package{}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "Package":
			p.Name = value
		case "Version":
			p.Version = value
		case "Architecture":
			p.Arch = value
		case "Source": // "NAME" or "NAME (VERSION)"
			name, version, _ := strings.Cut(value, " ")
			p.Source, p.SourceVersion = name, strings.Trim(version, "()")
		case "Maintainer":
			p.Maintainer = value
		case "Homepage":
			if u, err := url.Parse(value); err == nil && u.Scheme != "" && u.Host != "" {
				p.Homepage = u.String()
			}
		case "Description":
			p.Summary = value
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("dpkg status: %w", err)
	}
	return out, nil
}

// copyright reads a package's copyright file. The directory of its
// documentation may be a link to that of another package.
func copyright(t *tree.Tree, name string) (string, error) {
	dir := "usr/share/doc/" + name
	if e := t.Lookup(dir); e != nil && e.Kind() == tree.ModeSymlink {
		if path.IsAbs(e.Target) {
			dir = e.Target
		} else {
			dir = path.Join(path.Dir(dir), e.Target)
		}
	}
	return read(t, path.Join(dir, "copyright"))
}
