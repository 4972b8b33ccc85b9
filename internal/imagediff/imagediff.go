// Package imagediff says how two images differ: packages, files, systemd
// units, files with privileges, kernel and its configuration, sizes.
//
// An image is any that imgbuild makes or builds on and that holds files: disks
// (raw, qcow2 and VMDK, with an EROFS or ext4 root), EROFS file systems, archives,
// container images, directories. Two formats of one build have no differences.
// [Find] takes a name, [Same] compares bytes, [Read] reads an image as a list
// of files with digests, and [Compare] is a pure function of two of those.
//
// Times of files (but by [FirstOrTime]), SELinux labels and sockets are not compared. Nothing is
// written and nothing mounted, and what a hostile image can make this read is
// bounded (image.go).
package imagediff

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/filelist"
	"goldsmith/internal/tree"
)

// Diff is what differs. Lists are sorted, and nil where there is nothing.
type Diff struct {
	A        Side            `json:"a"`
	B        Side            `json:"b"`
	Same     bool            `json:"same"`      // nothing below differs
	SameByte bool            `json:"identical"` // nor does a byte of the files
	Fields   []Field         `json:"fields,omitempty"`
	Elements Names           `json:"elements"`
	Packages []PackageChange `json:"packages,omitempty"`
	Files    []FileChange    `json:"files,omitempty"`
	Units    []UnitChange    `json:"units,omitempty"`
	Powers   []PowerChange   `json:"privileged,omitempty"`
	Kernel   []Field         `json:"kernel_config,omitempty"` // options; "n" is not set
	Sizes    []SizeChange    `json:"sizes,omitempty"`         // of directories, the largest change first
	Notes    []string        `json:"notes,omitempty"`
}

// Side is one of the images.
type Side struct {
	Path     string `json:"path"`
	Format   string `json:"format"`
	Size     int64  `json:"size"`    // of the image's file, in bytes
	Content  int64  `json:"content"` // of all files in it, in bytes
	Files    int    `json:"files"`
	Packages int    `json:"packages"`
}

// Field is one value in both images; empty where it is not there.
type Field struct {
	Name string `json:"name"`
	A    string `json:"a"`
	B    string `json:"b"`
}

// Names are what only one of the images has.
type Names struct {
	Added   []string `json:"added,omitempty"`
	Removed []string `json:"removed,omitempty"`
}

// PackageChange is a package that differs.
type PackageChange struct {
	Name   string `json:"name"`
	Arch   string `json:"arch"`
	Change string `json:"change"` // added, removed, upgraded, downgraded
	A      string `json:"a,omitempty"`
	B      string `json:"b,omitempty"`
}

// FileChange is a file that differs.
type FileChange struct {
	Path   string         `json:"path"`
	Change string         `json:"change"`         // added, removed, changed
	What   []string       `json:"what,omitempty"` // of changed: type, content, mode, owner, target, device, link, xattrs
	A      *filelist.File `json:"a,omitempty"`
	B      *filelist.File `json:"b,omitempty"`
	// Explained says that the package that the file is of was added, removed,
	// or has another version.
	Explained bool `json:"explained,omitempty"`
}

// SizeChange is a directory whose files, each counted once, have another size
// together. In bytes.
type SizeChange struct {
	Path string `json:"path"`
	A    int64  `json:"a"`
	B    int64  `json:"b"`
}

// Compare compares two images.
func Compare(a, b *Image) *Diff {
	d := &Diff{A: a.side(), B: b.side()}
	d.Fields = a.fields(b)
	d.Elements = names(a.manifest.Elements, b.manifest.Elements)
	d.Packages = packages(a.Packages, b.Packages)
	changed := map[string]bool{}
	for _, p := range d.Packages {
		changed[p.Name] = true
	}
	d.Files = files(a.Files, b.Files, changed)
	d.Units = units(a, b)
	d.Powers = powers(a, b)
	d.Kernel = kernelConfig(a, b)
	d.Sizes = sizes(a.Files, b.Files)
	for _, m := range []*Image{a, b} {
		for _, n := range m.Notes {
			d.Notes = append(d.Notes, m.Path+": "+n)
		}
	}
	d.Same = len(d.Fields)+len(d.Packages)+len(d.Files)+len(d.Elements.Added)+len(d.Elements.Removed) == 0
	return d
}

// Identical is the comparison of two sources with the same bytes.
func Identical(a, b Source) *Diff {
	return &Diff{A: Side{Path: a.name}, B: Side{Path: b.name}, Same: true, SameByte: true}
}

func (m *Image) side() Side {
	s := Side{Path: m.Path, Format: m.Format, Size: m.Size, Files: len(m.Files), Packages: len(m.Packages)}
	for _, f := range m.Files {
		if f.Link == "" {
			s.Content += f.Size
		}
	}
	return s
}

// fields compares what there is one of. A command line that could be read on
// one side only, as archives have none, is no difference.
func (m *Image) fields(b *Image) []Field {
	var out []Field
	add := func(name, x, y string) {
		if x != y {
			out = append(out, Field{name, x, y})
		}
	}
	add("name", m.manifest.Name, b.manifest.Name)
	add("version", m.manifest.Version, b.manifest.Version)
	add("architecture", m.manifest.Arch, b.manifest.Arch)
	add("release", m.manifest.Release, b.manifest.Release)
	add("system", m.os, b.os)
	add("kernel", strings.Join(m.Kernels, " "), strings.Join(b.Kernels, " "))
	if m.Cmdline != "" && b.Cmdline != "" {
		add("kernel command line", m.commandLine(), b.commandLine())
	}
	if len(m.Partitions) > 0 && len(b.Partitions) > 0 {
		add("partitions", m.partitions(), b.partitions())
	}
	return out
}

func names(a, b []string) Names {
	var n Names
	for _, x := range b {
		if !slices.Contains(a, x) {
			n.Added = append(n.Added, x)
		}
	}
	for _, x := range a {
		if !slices.Contains(b, x) {
			n.Removed = append(n.Removed, x)
		}
	}
	return n
}

func packages(a, b []dpkg.Package) []PackageChange {
	type key struct{ name, arch string }
	was := map[key]string{}
	for _, p := range a {
		was[key{p.Name, p.Arch}] = p.Version
	}
	var out []PackageChange
	for _, p := range b {
		k := key{p.Name, p.Arch}
		version, ok := was[k]
		delete(was, k)
		c := PackageChange{Name: p.Name, Arch: p.Arch, A: version, B: p.Version}
		switch order := dpkg.CompareVersions(version, p.Version); {
		case !ok:
			c.Change = "added"
		case version == p.Version:
			continue
		case order > 0:
			c.Change = "downgraded"
		default:
			c.Change = "upgraded"
		}
		out = append(out, c)
	}
	for k, version := range was {
		out = append(out, PackageChange{Name: k.name, Arch: k.arch, Change: "removed", A: version})
	}
	slices.SortFunc(out, func(x, y PackageChange) int {
		return cmp.Or(strings.Compare(x.Name, y.Name), strings.Compare(x.Arch, y.Arch))
	})
	return out
}

// files compares two sorted lists. changed are the packages that differ.
func files(a, b []filelist.File, changed map[string]bool) []FileChange {
	var out []FileChange
	add := func(c FileChange) {
		for _, f := range []*filelist.File{c.A, c.B} {
			c.Explained = c.Explained || f != nil && (changed[f.Package] || changed[infoPackage(f.Path)])
		}
		out = append(out, c)
	}
	if len(changed) > 0 {
		changed[allPackages] = true
	}
	for len(a) > 0 || len(b) > 0 {
		order := 0
		switch {
		case len(a) == 0:
			order = 1
		case len(b) == 0:
			order = -1
		default:
			order = tree.Compare(tree.Clean(a[0].Path), tree.Clean(b[0].Path))
		}
		switch {
		case order < 0:
			add(FileChange{Path: a[0].Path, Change: "removed", A: &a[0]})
			a = a[1:]
		case order > 0:
			add(FileChange{Path: b[0].Path, Change: "added", B: &b[0]})
			b = b[1:]
		default:
			if what := attributes(&a[0], &b[0]); what != nil {
				add(FileChange{Path: a[0].Path, Change: "changed", What: what, A: &a[0], B: &b[0]})
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// allPackages is what the database of all packages is about.
const allPackages = "*"

// infoPackage is the package that a file of dpkg's own is about.
func infoPackage(p string) string {
	if p == "/"+dpkg.StatusFile {
		return allPackages
	}
	name, ok := strings.CutPrefix(p, "/var/lib/dpkg/info/")
	if !ok {
		return ""
	}
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		name = name[:i]
	}
	name, _, _ = strings.Cut(name, ":")
	return name
}

// attributes names what differs between two files.
func attributes(a, b *filelist.File) []string {
	var out []string
	for _, c := range []struct {
		name string
		same bool
	}{
		{"type", a.Type == b.Type},
		{"content", a.Type != b.Type || a.Size == b.Size && a.SHA256 == b.SHA256},
		{"mode", a.Mode == b.Mode},
		{"owner", a.UID == b.UID && a.GID == b.GID},
		{"target", a.Target == b.Target},
		{"device", a.Device == b.Device},
		{"link", a.Link == b.Link},
		{"xattrs", maps.EqualFunc(a.Xattrs, b.Xattrs, slices.Equal)},
	} {
		if !c.same {
			out = append(out, c.name)
		}
	}
	return out
}

// sizes compares the directories at the top, and those in /usr and /var.
func sizes(a, b []filelist.File) []SizeChange {
	x, y := directorySizes(a), directorySizes(b)
	var out []SizeChange
	for p := range x {
		if _, ok := y[p]; !ok {
			y[p] = 0
		}
	}
	for p, n := range y {
		if x[p] != n {
			out = append(out, SizeChange{Path: p, A: x[p], B: n})
		}
	}
	delta := func(s SizeChange) int64 { return max(s.B-s.A, s.A-s.B) }
	slices.SortFunc(out, func(s, t SizeChange) int {
		return cmp.Or(cmp.Compare(delta(t), delta(s)), strings.Compare(s.Path, t.Path))
	})
	return out
}

func directorySizes(files []filelist.File) map[string]int64 {
	out := map[string]int64{}
	for _, f := range files {
		if f.Size == 0 || f.Link != "" {
			continue
		}
		parts := strings.Split(f.Path[1:], "/")
		depth := 1
		if parts[0] == "usr" || parts[0] == "var" {
			depth = 2
		}
		depth = min(depth, len(parts)-1)
		out["/"+strings.Join(parts[:depth], "/")] += f.Size
	}
	return out
}
