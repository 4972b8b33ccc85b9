package apt

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// release is what a Release file says.
type release struct {
	fields map[string]string
	files  map[string]fileSum // by path below the file's directory
}

// fileSum is how an index must look.
type fileSum struct {
	sha256 string
	size   int64
}

// parseRelease reads a Release file, whose format is in Debian's repository
// format description.
func parseRelease(text string) (*release, error) {
	r := &release{fields: map[string]string{}, files: map[string]fileSum{}}
	field := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			continue
		}
		if line[0] != ' ' {
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				return nil, fmt.Errorf("%q is not a field", line)
			}
			field = name
			r.fields[name] = strings.TrimSpace(value)
			continue
		}
		if field != "SHA256" {
			continue
		}
		w := strings.Fields(line)
		if len(w) != 3 || !isSum(w[0]) {
			return nil, fmt.Errorf("%q is not a check sum, a size and a name", line)
		}
		size, err := strconv.ParseInt(w[1], 10, 64)
		if err != nil || size < 0 {
			return nil, fmt.Errorf("%q: bad size", line)
		}
		r.files[w[2]] = fileSum{w[0], size}
	}
	if len(r.files) == 0 {
		return nil, errors.New("no SHA256 check sums")
	}
	return r, nil
}

// isSum tells whether s is a SHA-256 in lower-case hexadecimal digits. What
// passes may be a file name.
func isSum(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// check compares the file with what was asked for, at a time.
func (r *release) check(s Source, now time.Time) error {
	name, codename := r.fields["Suite"], r.fields["Codename"]
	if !strings.HasSuffix(s.Suite, "/") && name+codename != "" && s.Suite != name && s.Suite != codename {
		return fmt.Errorf("it is for the suite %s (%s), not for %s", name, codename, s.Suite)
	}
	until := r.fields["Valid-Until"]
	if until == "" || !s.set("check-valid-until", true) {
		return nil
	}
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, until); err == nil {
			if now.After(t) {
				return fmt.Errorf("it was valid until %s: the mirror is out of date, or the clock here is wrong", until)
			}
			return nil
		}
	}
	return fmt.Errorf("Valid-Until: %q is not a date", until)
}

// indexes returns the paths, without the ending of a compression, of the lists
// of packages for an architecture.
func (r *release) indexes(s Source, arch string) []string {
	if strings.HasSuffix(s.Suite, "/") {
		return []string{"Packages"}
	}
	archs := []string{arch}
	// Where it is not said otherwise, packages for all architectures have a
	// list of their own.
	if slices.Contains(strings.Fields(r.fields["Architectures"]), "all") &&
		r.fields["No-Support-for-Architecture-all"] != "Packages" {
		archs = append(archs, "all")
	}
	var out []string
	for _, c := range s.Components {
		for _, a := range archs {
			out = append(out, c+"/binary-"+a+"/Packages")
		}
	}
	return out
}
