package applycfg

import (
	"slices"
	"strings"

	"goldsmith/internal/metadata"
	"goldsmith/internal/template"
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
				if quoted := metadata.JSON(v); len(quoted) != len(v)+2 {
					values = append(values, quoted[1:len(quoted)-1])
				}
				return hidden
			}
		case metadata.Number:
			if within && !v.Falsy() {
				if digits(string(v)) >= 4 {
					values = append(values, string(v))
				}
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

// withoutSecrets removes the metadata's secrets from lines that a program
// printed, which may be the last of several.
func (r *renderer) withoutSecrets(lines []string) []string {
	_, values := mask(r.doc, r.Secret)
	if len(lines) == 0 {
		return nil
	}
	for _, v := range values {
		for l := range strings.SplitSeq(v, "\n") {
			values = append(values, strings.TrimRight(l, "\r "))
		}
	}
	slices.SortStableFunc(values, func(a, b string) int { return len(b) - len(a) })
	return strings.Split(hide(strings.Join(lines, "\n"), values), "\n")
}

func digits(s string) (n int) {
	for i := range len(s) {
		if isDigit(s[i]) {
			n++
		}
	}
	return n
}

// shown is what may be shown of a file.
type shown struct {
	body   string          // without secrets
	values []string        // the secrets
	shape  *template.Shape // of the template; nil: nobody knows what its lines come from
}

// old is what may be shown of the file's former content, which may hold secrets
// that the metadata no longer have: lines that the new one has too, and those
// that the template makes without a secret. Of others nobody knows what they
// held, as the template may have been another.
func (s *shown) old(text string) string {
	known := map[string]bool{}
	var masked [][]string // lines that show a secret, as the text around them
	for l := range strings.Lines(s.body) {
		l = strings.TrimRight(l, "\n")
		if parts := strings.Split(l, hidden); len(parts) > 1 && !known[l] {
			masked = append(masked, parts)
		}
		known[l] = true
	}
	var b strings.Builder
	for l := range strings.Lines(hide(text, s.values)) {
		bare, eol := strings.CutSuffix(l, "\n")
		if !known[bare] && strings.TrimSpace(bare) != "" {
			bare = s.line(bare, masked)
		}
		b.WriteString(bare)
		if eol {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func (s *shown) line(l string, masked [][]string) string {
	if s.shape == nil {
		return hidden
	}
	for _, parts := range masked {
		if matches(l, parts) {
			return strings.Join(parts, hidden)
		}
	}
	// What a line shows as JSON may have been an object with a secret.
	if from, ok := s.shape.Secret(l, structure(l)); ok {
		return l[:from] + hidden
	}
	if !s.shape.Plain(l) {
		return hidden
	}
	// The key may have another name than what the file calls it.
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

// structure says whether a text may hold an object or a list of JSON.
func structure(text string) bool {
	for i := range len(text) - 1 {
		next := text[i+1]
		if text[i] == '{' && next == '"' || text[i] == '[' && (strings.IndexByte(`"{[-`, next) >= 0 || isDigit(next)) {
			return true
		}
		if rest := text[i+1:]; text[i] == '[' {
			for _, word := range []string{"true", "false", "null", "NaN", "Infinity"} {
				if strings.HasPrefix(rest, word+",") {
					return true
				}
			}
		}
	}
	return false
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
