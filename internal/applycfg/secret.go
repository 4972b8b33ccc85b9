package applycfg

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/metadata"
)

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

// Secrets are the values of secret keys in metadata. Nil: everything is secret.
type Secrets struct {
	some  bool             // there is one
	short bool             // one is too short to be found in a text
	doc   *metadata.Object // the metadata with these values masked
	words *words           // these values, wherever they are
	paths []string         // the dotted keys of the values
	known []string         // Templates.Marked
	set   keySet           // of paths and known, when somebody has asked
}

// FindSecrets finds the values of secret keys. What is empty stays in the
// metadata, and the lines of a text stay lines, so that templates make as many
// lines of both. So do true and false, and what keys below a secret one are
// called.
func (t Templates) FindSecrets(doc *metadata.Object) *Secrets {
	f := finder{secret: t.Secret, Secrets: &Secrets{known: t.Marked}}
	if f.secret == nil {
		f.secret = SecretName
	}
	masked, changed := f.value(doc, "", false)
	f.doc = doc
	if changed {
		f.doc = masked.(*metadata.Object)
	}
	f.words = newWords(f.values)
	return f.Secrets
}

// hide masks secret values that reached a text by another way.
func (s *Secrets) hide(text string) string {
	if s == nil {
		return stars(text)
	}
	return s.words.mask(text)
}

// keys are the keys of which values are secrets, and those of which a schema
// says so.
func (s *Secrets) keys() keySet {
	if s == nil {
		return nil
	}
	if s.set == nil {
		s.set = newKeySet(s.paths, s.known)
	}
	return s.set
}

// finder goes through metadata.
type finder struct {
	*Secrets
	secret func(key string) bool
	values []string // to be found in texts
}

// value is a value with secrets masked, and whether it is another one.
func (f *finder) value(v any, path string, within bool) (masked any, changed bool) {
	switch v := v.(type) {
	case *metadata.Object:
		return f.object(v, path, within)
	case []any:
		var list []any
		for i := range v {
			if m, changed := f.value(v[i], path, within); changed {
				if list == nil {
					list = slices.Clone(v)
				}
				list[i] = m
			}
		}
		return list, list != nil
	case string:
		if within && v != "" {
			f.found(path)
			f.short = f.short || len(v) < minWord
			f.values = append(f.values, spellings(v)...)
			return stars(v), true
		}
	case metadata.Number:
		if within && !v.Falsy() {
			f.found(path)
			list := numbers(string(v))
			f.short = f.short || list == nil
			f.values = append(f.values, list...)
			return hidden, true
		}
	}
	return v, false
}

func (f *finder) object(v *metadata.Object, path string, within bool) (masked any, changed bool) {
	var o *metadata.Object
	if path != "" {
		path += "."
	}
	for k, w := range v.All() {
		at := path + k
		if within && secretLike(k) {
			f.found(at)
			f.values = append(f.values, spellings(k)...)
		}
		m, changed := f.value(w, at, within || f.secret(at))
		if !changed {
			continue
		}
		if o == nil {
			o = &metadata.Object{}
			for k, w := range v.All() {
				o.Set(k, w)
			}
		}
		o.Set(k, m)
	}
	return o, o != nil
}

// found notes that the value of a key is a secret. Items of a list have its key.
func (f *finder) found(path string) {
	f.some = true
	if n := len(f.paths); n == 0 || f.paths[n-1] != path {
		f.paths = append(f.paths, path)
	}
}

// secretLike says that a key below a secret one may itself be a secret: it is
// long, or not made of words.
func secretLike(key string) bool {
	word := !strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '-' && r != '.'
	})
	return len(key) >= 24 || len(key) >= 8 && !word
}

// spellings are the texts in which a secret may be found: itself, as JSON
// writes it, with and without ASCII only, and each of its lines.
func spellings(v string) []string {
	all := []string{v}
	if trimmed := strings.TrimSpace(v); trimmed != v {
		all = append(all, trimmed) // the ends of lines that a program printed are
	}
	if quoted := metadata.JSON(v); len(quoted) != len(v)+2 {
		all = append(all, quoted[1:len(quoted)-1])
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if e.Encode(v) == nil {
			all = append(all, strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(b.String()), `"`), `"`))
		}
	}
	if strings.Contains(v, "\n") {
		for l := range strings.Lines(v) {
			all = append(all, strings.TrimSpace(l))
		}
	}
	return all
}

// numbers are the spellings of a number; none for one of less than four digits.
func numbers(v string) []string {
	digits := 0
	for i := range len(v) {
		if v[i] >= '0' && v[i] <= '9' {
			digits++
		}
	}
	if digits < 4 {
		return nil
	}
	all := []string{v}
	f, err := strconv.ParseFloat(v, 64)
	if err != nil || len(v) > 400 {
		return all
	}
	plain, exp := strconv.FormatFloat(f, 'f', -1, 64), strconv.FormatFloat(f, 'e', -1, 64) // 1.5e+07
	all = append(all, plain)
	if !strings.Contains(plain, ".") {
		all = append(all, plain+".0")
	}
	mantissa, power, ok := strings.Cut(exp, "e")
	if !ok || len(power) < 2 {
		return all
	}
	bare := strings.TrimPrefix(power[:1], "+") + strings.TrimLeft(power[1:], "0")
	for _, e := range []string{"e", "E"} {
		all = append(all, mantissa+e+power, mantissa+e+power[:1]+strings.TrimLeft(power[1:], "0"), mantissa+e+bare)
	}
	return all
}
