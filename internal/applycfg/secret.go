package applycfg

import (
	"cmp"
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

// secrets are the values of secret keys in metadata.
type secrets struct {
	some     bool              // there is one
	doc      *metadata.Object  // the metadata with these values masked
	replacer *strings.Replacer // of these values, wherever they are
}

// findSecrets finds the values of secret keys. What is empty stays in the
// metadata, and the lines of a text stay lines, so that templates make as many
// lines of both.
func findSecrets(doc *metadata.Object, secret func(string) bool) *secrets {
	s := &secrets{}
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
				s.some = true
				values = append(values, spellings(v)...)
				return stars(v)
			}
		case metadata.Number:
			if within && !v.Falsy() {
				s.some = true
				if digits(string(v)) >= 4 {
					values = append(values, string(v))
				}
				return hidden
			}
		}
		return v
	}
	s.doc, _ = walk(doc, "", false).(*metadata.Object)
	if !s.some {
		s.doc = doc
	}
	s.replacer = replacer(values)
	return s
}

// spellings are the texts in which a secret may be found: itself, as JSON
// writes it, and each of its lines.
func spellings(v string) []string {
	all := []string{v}
	if quoted := metadata.JSON(v); len(quoted) != len(v)+2 {
		all = append(all, quoted[1:len(quoted)-1])
	}
	if strings.Contains(v, "\n") {
		for l := range strings.Lines(v) {
			all = append(all, strings.TrimSpace(l))
		}
	}
	return all
}

// replacer masks values. Short ones would be found everywhere.
func replacer(values []string) *strings.Replacer {
	// The longest first: one may be part of another.
	slices.SortFunc(values, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, v := range slices.Compact(values) {
		if len(v) >= 4 {
			pairs = append(pairs, v, stars(v))
		}
	}
	return strings.NewReplacer(pairs...)
}

// hide removes secret values that reached a text by another way.
func (s *secrets) hide(text string) string { return s.replacer.Replace(text) }

// stars masks every line of a text that is not empty.
func stars(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		bare, eol := strings.CutSuffix(l, "\n")
		if bare != "" {
			b.WriteString(hidden)
		}
		if eol {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// withoutSecrets removes the metadata's secrets from lines that a program
// printed, which may be the last of several.
func (r *renderer) withoutSecrets(lines []string) []string {
	if len(lines) == 0 {
		return nil
	}
	return strings.Split(r.secrets().hide(strings.Join(lines, "\n")), "\n")
}

func digits(s string) (n int) {
	for i := range len(s) {
		if s[i] >= '0' && s[i] <= '9' {
			n++
		}
	}
	return n
}

// shown is what may be shown of a file. nil: nothing.
type shown struct {
	mask func(body string) string // masks what is secret, line by line
	hide func(text string) string // masks secrets in another text
}

// lines are the lines of a file's content as they may be shown.
func (s *shown) lines(body string) []string {
	if s != nil {
		masked := lines(s.mask(body))
		if len(masked) == len(lines(body)) {
			return masked
		}
	}
	return lines(stars(body))
}
