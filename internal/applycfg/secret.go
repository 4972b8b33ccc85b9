package applycfg

import (
	"slices"
	"strings"

	"goldsmith/internal/metadata"
)

// hidden stands for a value that is not shown.
const hidden = "****"

// SecretName says that a dotted key, or one above it, looks like that of a
// secret.
func SecretName(key string) bool {
	key = strings.ToLower(key)
	for _, word := range []string{"pass", "secret", "token", "credential", "private", "key"} {
		if strings.Contains(key, word) {
			return true
		}
	}
	return false
}

// mask returns the metadata without the values of secret keys, and these
// values. What is empty stays, so that templates make the same of it.
func mask(doc *metadata.Object, secret func(string) bool) (*metadata.Object, []string) {
	var values []string
	var walk func(v any, path string, within bool) any
	walk = func(v any, path string, within bool) any {
		switch v := v.(type) {
		case *metadata.Object:
			o := &metadata.Object{}
			for k, w := range v.All() {
				o.Set(k, walk(w, path+k+".", within || secret(path+k)))
			}
			return o
		case []any:
			list := make([]any, len(v))
			for i := range v {
				list[i] = walk(v[i], path, within)
			}
			return list
		case string:
			if within && v != "" {
				values = append(values, v)
				return hidden
			}
		case metadata.Number:
			if within && !v.Falsy() {
				return hidden
			}
		}
		return v
	}
	masked, _ := walk(doc, "", false).(*metadata.Object)
	// The longest first: one may be part of another.
	slices.SortFunc(values, func(a, b string) int { return len(b) - len(a) })
	return masked, values
}

// hide removes secret values that reached a text by another way. Short ones
// would be found everywhere.
func hide(text string, values []string) string {
	for _, v := range values {
		if len(v) >= 4 {
			text = strings.ReplaceAll(text, v, hidden)
		}
	}
	return text
}

// shown is what may be shown of a file.
type shown struct {
	body   string     // without secrets
	lines  [][]string // of the template, see template.SecretLines
	opaque bool       // nobody knows what its lines come from
}

// old is what may be shown of the file's former content, which may hold
// secrets that the metadata no longer have.
func (s *shown) old(text string) string {
	known := map[string]bool{}
	patterns := s.lines
	for l := range strings.Lines(s.body) {
		l = strings.TrimRight(l, "\n")
		known[l] = true
		if parts := strings.Split(l, hidden); len(parts) > 1 {
			patterns = append(patterns, parts)
		}
	}
	var b strings.Builder
	for l := range strings.Lines(text) {
		bare, eol := strings.CutSuffix(l, "\n")
		if !known[bare] {
			bare = s.line(bare, patterns)
		}
		b.WriteString(bare)
		if eol {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (s *shown) line(l string, patterns [][]string) string {
	for _, parts := range patterns {
		if matches(l, parts) {
			return strings.Join(parts, hidden)
		}
	}
	if s.opaque {
		return hidden
	}
	// A template that no longer has the line cannot tell.
	if i := strings.IndexAny(l, "=: \t"); i > 0 && SecretName(l[:i+1]) {
		return l[:i+1] + hidden
	}
	// The password of a URL.
	if scheme, rest, ok := strings.Cut(l, "://"); ok {
		if user, host, ok := strings.Cut(rest, "@"); ok && strings.Contains(user, ":") {
			name, _, _ := strings.Cut(user, ":")
			return scheme + "://" + name + ":" + hidden + "@" + host
		}
	}
	return l
}

// matches says that a line is the parts with anything between them.
func matches(l string, parts []string) bool {
	l, ok := strings.CutPrefix(l, parts[0])
	last := len(parts) - 1
	if !ok || !strings.HasSuffix(l, parts[last]) {
		return false
	}
	l = l[:len(l)-len(parts[last])]
	for _, p := range parts[1:last] {
		i := strings.Index(l, p)
		if i < 0 {
			return false
		}
		l = l[i+len(p):]
	}
	return true
}
