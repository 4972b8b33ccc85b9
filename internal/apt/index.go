package apt

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// version is one version of a package as an index lists it.
type version struct {
	name, version, arch  string
	multiArch            string // same, foreign, allowed; empty is no
	essential, important bool
	priority             int // 1 required … 5 extra; 0 when there is none
	preDepends, depends  string
	conflicts, breaks    string
	recommends, suggests string // these four only for the order of apt's
	replaces, enhances   string // package numbers, see solver.number
	provides             string
	filename, sha256     string
	size                 int64
	source               *Source
	pin                  int // of its source, apt_preferences(5)
}

var priorities = map[string]int{"required": 1, "important": 2, "standard": 3, "optional": 4, "extra": 5}

// parseIndex reads a Packages file and hands on what is for the architecture
// or for all. The versions' texts are parts of the file's.
func parseIndex(text, arch string, use func(*version) error) error {
	for text != "" {
		stanza := text
		if i := strings.Index(text, "\n\n"); i >= 0 {
			stanza, text = text[:i+1], text[i+2:]
		} else {
			text = ""
		}
		stanza = strings.TrimLeft(stanza, "\n")
		if stanza == "" {
			continue
		}
		v, err := parseVersion(stanza)
		if err != nil {
			return err
		}
		if v.arch != arch && v.arch != "all" {
			continue
		}
		if err := use(v); err != nil {
			return err
		}
	}
	return nil
}

func parseVersion(stanza string) (*version, error) {
	v := &version{}
	var last *string
	var size string
	flags := [3]string{}
	for line := range strings.Lines(stanza) {
		if line[0] == ' ' || line[0] == '\t' {
			if last != nil {
				*last += line
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("%q is not a field", strings.TrimSpace(line))
		}
		if last = v.field(name, &size, &flags); last != nil {
			*last = strings.TrimSpace(value)
		}
	}
	v.essential = flags[0] == "yes"
	v.important = flags[1] == "yes"
	v.priority = priorities[flags[2]]
	return v, v.check(size)
}

// field returns where the value of a field goes; nil means nowhere.
func (v *version) field(name string, size *string, flags *[3]string) *string {
	switch name {
	case "Package":
		return &v.name
	case "Version":
		return &v.version
	case "Architecture":
		return &v.arch
	case "Multi-Arch":
		return &v.multiArch
	case "Essential":
		return &flags[0]
	case "Important", "Protected":
		return &flags[1]
	case "Priority":
		return &flags[2]
	case "Filename":
		return &v.filename
	case "SHA256":
		return &v.sha256
	case "Size":
		return size
	}
	return v.relation(name)
}

func (v *version) relation(name string) *string {
	switch name {
	case "Pre-Depends":
		return &v.preDepends
	case "Depends":
		return &v.depends
	case "Conflicts":
		return &v.conflicts
	case "Breaks":
		return &v.breaks
	case "Recommends":
		return &v.recommends
	case "Suggests":
		return &v.suggests
	case "Replaces":
		return &v.replaces
	case "Enhances":
		return &v.enhances
	case "Provides":
		return &v.provides
	}
	return nil
}

// check refuses what could not be fetched, or only from elsewhere.
func (v *version) check(size string) error {
	var err error
	if v.size, err = strconv.ParseInt(size, 10, 64); err != nil || v.size <= 0 {
		return fmt.Errorf("package %q: bad size %q", v.name, size)
	}
	switch {
	case v.name == "" || v.version == "" || v.arch == "":
		return fmt.Errorf("package %q, version %q, architecture %q: incomplete", v.name, v.version, v.arch)
	case strings.ContainsAny(v.name+v.version+v.arch, "/ \t\n"):
		return fmt.Errorf("package %q, version %q: bad name", v.name, v.version)
	case !isSum(v.sha256):
		return fmt.Errorf("package %q: SHA256 %q is not a check sum", v.name, v.sha256)
	case !filepath.IsLocal(v.filename):
		return fmt.Errorf("package %q: its file %q is not in the archive", v.name, v.filename)
	}
	return nil
}
