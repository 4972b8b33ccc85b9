package bootstrap

import "strings"

// Filter is a path-exclude or path-include of dpkg(1).
type Filter struct {
	Include bool
	Pattern string // of the whole path; * and ? match slashes too
}

// skips tells whether the filters leave a path out. Directories, and links,
// below which something may be included are kept, as dpkg does
// (src/main/filters.c).
func skips(filters []Filter, path string, mayHold bool) bool {
	skip := false
	for _, f := range filters {
		if skip == f.Include && glob(f.Pattern, path) {
			skip = !f.Include
		}
	}
	if !skip || !mayHold {
		return skip
	}
	for _, f := range filters {
		if !f.Include {
			continue
		}
		fixed := f.Pattern
		if i := strings.IndexAny(fixed, "*?[\\"); i >= 0 {
			fixed = fixed[:i]
		}
		if strings.HasPrefix(path, strings.TrimRight(fixed, "/")) {
			return false
		}
	}
	return true
}

// glob is fnmatch(3) without flags and without brackets.
func glob(pattern, s string) bool {
	star, mark := -1, 0
	p, i := 0, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
