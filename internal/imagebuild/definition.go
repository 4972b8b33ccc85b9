package imagebuild

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/disk"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/pkginstall"
	"goldsmith/internal/size"
	"goldsmith/internal/yamlfile"
)

// Definition is an image definition file (docs/formats.md). Name, Release and
// Elements must be given.
type Definition struct {
	Name    string // of the image and its files: lower case letters, digits, "." and "-"
	Version string // the image's own version; empty means "0"
	Arch    string // in Debian's words; empty means amd64, the only one for now
	Release string // of the distribution, such as bookworm
	// Mirror is where packages come from: a URI, a line as in sources.list(5),
	// or a list of both. Empty means the bootstrapper's default.
	Mirror   Mirrors
	Elements []string
	Packages []string // further distribution packages
	// Environment is for every hook. What the builder sets itself (PATH,
	// IMAGE_NAME, TARGET_ROOT, …) it must not name.
	Environment map[string]string
	// Size is the disk's, such as "4GiB"; the state partition takes what the
	// other partitions leave. Empty means: as small as the content fits.
	Size    string
	State   []string // directories that machines may change and keep; nil means /home, /root, /srv and /var
	Outputs []string // names of formats; nil means raw
	// Modules says which disks the initramfs has drivers for: "servers" or "vm";
	// empty means servers.
	Modules string
	// SecureBoot signs what firmware starts; nil leaves it unsigned.
	SecureBoot *SecureBoot `yaml:"secure-boot"`
}

var (
	nameRE   = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,62}$`)
	envRE    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	mirrorRE = regexp.MustCompile(`^((https?|file)://[^\s'"]+|deb [^\n'"]+)$`)
)

// Mirrors is a list of package sources; in YAML it may be a single text.
type Mirrors []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (m *Mirrors) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*m = nil
		if n.Value != "" {
			*m = Mirrors{n.Value}
		}
		return nil
	}
	return n.Decode((*[]string)(m))
}

// LoadDefinition reads and checks an image definition. Errors name the file
// and the line.
func LoadDefinition(file string) (*Definition, error) {
	var d Definition
	f, err := yamlfile.Read(file, &d)
	if err != nil {
		return nil, err
	}
	d.fill()
	return &d, d.check(f)
}

func (d *Definition) fill() {
	if d.Version == "" {
		d.Version = "0"
	}
	if d.Arch == "" {
		d.Arch = "amd64"
	}
	if d.Outputs == nil {
		d.Outputs = []string{"raw"}
	}
}

func (d *Definition) check(f *yamlfile.File) error {
	for _, c := range []struct{ key, value string }{{"name", d.Name}, {"version", d.Version}, {"release", d.Release}} {
		if c.value == "" {
			return f.Errorf(nil, "%s is missing", c.key)
		}
		if !nameRE.MatchString(c.value) {
			return f.Errorf([]any{c.key}, "%s %q: lower case letters, digits, '.' and '-' only", c.key, c.value)
		}
	}
	if d.Arch != "amd64" {
		return f.Errorf([]any{"arch"}, "arch %q: only amd64 can be built for now", d.Arch)
	}
	for i, m := range d.Mirror {
		if !mirrorRE.MatchString(m) {
			return f.Errorf([]any{"mirror", i}, "mirror %q: expected an http, https or file URI, or a 'deb …' line", m)
		}
	}
	if len(d.Elements) == 0 {
		return f.Errorf([]any{"elements"}, "elements is empty: an image needs at least an operating system element")
	}
	for i, p := range d.Packages {
		if !pkginstall.PackageName(p) {
			return f.Errorf([]any{"packages", i}, "package %q: not a package name", p)
		}
	}
	if err := d.checkEnvironment(f); err != nil {
		return err
	}
	if err := d.checkState(f); err != nil {
		return err
	}
	if err := d.checkOutputs(f); err != nil {
		return err
	}
	if _, err := d.size(); err != nil {
		return f.Errorf([]any{"size"}, "%v", err)
	}
	if d.Modules != "" && drivers[d.Modules] == nil {
		return f.Errorf([]any{"modules"}, "modules %q: expected servers or vm", d.Modules)
	}
	return d.checkSecureBoot(f)
}

// drivers are the disks that Definition.Modules stands for.
var drivers = map[string][]string{"servers": initramfs.Drivers, "vm": initramfs.VMDrivers}

func (d *Definition) checkEnvironment(f *yamlfile.File) error {
	for _, k := range slices.Sorted(maps.Keys(d.Environment)) {
		switch at := []any{"environment", k}; {
		case !envRE.MatchString(k):
			return f.Errorf(at, "environment %q: not a variable name", k)
		case reserved(k):
			return f.Errorf(at, "environment %s: the builder sets it itself", k)
		case strings.Contains(d.Environment[k], "\x00"):
			return f.Errorf(at, "environment %s: a value cannot hold a zero byte", k)
		}
	}
	return nil
}

// checkState holds state directories to the disk writer's rules, before
// anything is built.
func (d *Definition) checkState(f *yamlfile.File) error {
	if at, err := disk.CheckState(d.State); err != nil {
		return f.Errorf([]any{"state", at}, "%v", err)
	}
	return nil
}

func (d *Definition) checkOutputs(f *yamlfile.File) error {
	if len(d.Outputs) == 0 {
		return f.Errorf([]any{"outputs"}, "outputs is empty: expected some of %s", strings.Join(formatNames(), ", "))
	}
	for i, o := range d.Outputs {
		format, known := formats[o]
		if !known {
			return f.Errorf([]any{"outputs", i}, "output %q: expected one of %s", o, strings.Join(formatNames(), ", "))
		}
		for _, other := range d.Outputs[:i] {
			if formats[other].ending == format.ending {
				return f.Errorf([]any{"outputs", i}, "output %s: there is already a file NAME.%s", o, format.ending)
			}
		}
	}
	return nil
}

var sizeRE = regexp.MustCompile(`^[1-9][0-9]{0,6}(MiB|GiB|TiB)$`)

// size returns Size in bytes, 0 when it is not given.
func (d *Definition) size() (int64, error) {
	if d.Size == "" {
		return 0, nil
	}
	n, err := ParseSize(d.Size)
	if err == nil && n == 0 {
		err = fmt.Errorf("size %q: a disk of no size", d.Size)
	}
	return n, err
}

// ParseSize reads a size such as 500MiB, 4GiB or 1TiB, or 0.
func ParseSize(text string) (int64, error) {
	if text != "0" && !sizeRE.MatchString(text) {
		return 0, fmt.Errorf("size %q: expected a whole number of MiB, GiB or TiB, such as 4GiB", text)
	}
	n, err := size.Parse(text)
	if err != nil {
		return 0, fmt.Errorf("size %q: larger than any disk", text)
	}
	return int64(n), nil
}
