package dpkg

import (
	"fmt"
	"strings"
)

// Relation is one package that a dependency names: "libc6:any (>= 2.36)".
type Relation struct {
	Name    string
	Arch    string // behind a colon; empty means none
	Op      string // <<, <=, =, >= or >>; empty means any version
	Version string
}

func (r Relation) String() string {
	s := r.Name
	if r.Arch != "" {
		s += ":" + r.Arch
	}
	if r.Op != "" {
		s += " (" + r.Op + " " + r.Version + ")"
	}
	return s
}

// Allows tells whether a version is in the relation's range.
func (r Relation) Allows(version string) bool {
	if r.Op == "" {
		return true
	}
	c := CompareVersions(version, r.Version)
	switch r.Op {
	case "<<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	}
	return c > 0
}

// Alternatives are relations of which one suffices: "a | b".
type Alternatives []Relation

func (a Alternatives) String() string {
	var s []string
	for _, r := range a {
		s = append(s, r.String())
	}
	return strings.Join(s, " | ")
}

// ParseRelations reads the value of a dependency field of a binary package,
// as deb-control(5) describes it.
func ParseRelations(field string) ([]Alternatives, error) {
	var out []Alternatives
	for group := range strings.SplitSeq(field, ",") {
		if strings.TrimSpace(group) == "" {
			continue
		}
		var alts Alternatives
		for part := range strings.SplitSeq(group, "|") {
			r, err := parseRelation(part)
			if err != nil {
				return nil, err
			}
			alts = append(alts, r)
		}
		out = append(out, alts)
	}
	return out, nil
}

func parseRelation(s string) (Relation, error) {
	name, rest, ranged := strings.Cut(s, "(")
	var r Relation
	r.Name, r.Arch, _ = strings.Cut(strings.TrimSpace(name), ":")
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\n") {
		return r, fmt.Errorf("%q: not a package relation", strings.TrimSpace(s))
	}
	if !ranged {
		return r, nil
	}
	inner, after, closed := strings.Cut(rest, ")")
	inner = strings.TrimSpace(inner)
	n := 0
	for n < len(inner) && strings.IndexByte("<>=", inner[n]) >= 0 {
		n++
	}
	r.Op, r.Version = inner[:n], strings.TrimSpace(inner[n:])
	switch r.Op { // the old forms mean "or equal", deb-control(5)
	case "<", ">":
		r.Op += "="
	case "":
		r.Op = "="
	case "<<", "<=", "=", ">=", ">>":
	default:
		closed = false
	}
	if !closed || strings.TrimSpace(after) != "" || r.Version == "" {
		return r, fmt.Errorf("%q: not a package relation", strings.TrimSpace(s))
	}
	return r, nil
}
