package applycfg

import (
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
// What takes time is made when it is first asked for.
type Secrets struct {
	finder
	marked []string // Templates.Marked
	set    keySet   // of paths and marked
	found  *words   // texts and numbers, wherever they are
	public *metadata.Object
}

// FindSecrets finds the values of secret keys.
func (t Templates) FindSecrets(doc *metadata.Object) *Secrets {
	s := &Secrets{finder: finder{doc: doc, secret: t.Secret}, marked: t.Marked}
	if s.secret == nil {
		s.secret = SecretName
	}
	s.value(doc, "", false)
	return s
}

// Masked are metadata with secrets masked, where their values are elsewhere, too.
func (t Templates) Masked(doc *metadata.Object) *metadata.Object {
	s := t.FindSecrets(doc)
	return s.without(s.hide)
}

// some says that there is a secret.
func (s *Secrets) some() bool { return len(s.paths) > 0 }

// hide masks secret values that reached a text by another way.
func (s *Secrets) hide(text string) string {
	if s == nil {
		return stars(text)
	}
	if s.found == nil {
		var all []string
		for _, v := range s.texts {
			all = append(all, spellings(v)...)
		}
		for _, v := range s.numbers {
			all = append(all, spelledNumber(v)...)
		}
		s.found = newWords(all)
	}
	return s.found.mask(text)
}

// keys are the keys of which values are secrets, and those of which a schema
// says so.
func (s *Secrets) keys() keySet {
	if s == nil {
		return nil
	}
	if s.set == nil {
		s.set = newKeySet(s.paths, s.marked)
	}
	return s.set
}

// masked are the metadata with secrets masked. What is empty stays, and the
// lines of a text stay lines, so that templates make as many lines of both. So
// do true and false, and what keys below a secret one are called.
func (s *Secrets) masked() *metadata.Object {
	if s.public == nil {
		s.public = s.without(func(text string) string { return text })
	}
	return s.public
}

// without are the metadata with secrets masked, and other texts as hide has them.
func (s *Secrets) without(hide func(string) string) *metadata.Object {
	f := finder{secret: s.secret, hide: hide}
	if o, ok := f.value(s.doc, "", false).(*metadata.Object); ok {
		return o
	}
	return s.doc
}

// finder goes through metadata.
type finder struct {
	doc    *metadata.Object
	secret func(key string) bool
	// hide is set to make what is masked, rather than what follows; it masks texts
	// that are not secret as a whole.
	hide func(text string) string

	paths   []string // the dotted keys of secrets
	texts   []string // which are secrets
	numbers []metadata.Number
	short   bool // one is too short to be found in a text
}

// value is a value with secrets masked, nil where it stays as it is.
func (f *finder) value(v any, path string, within bool) any {
	switch v := v.(type) {
	case *metadata.Object:
		if o := f.object(v, path, within); o != nil {
			return o
		}
	case []any:
		var list []any
		for i := range v {
			if m := f.value(v[i], path, within); m != nil {
				if list == nil {
					list = slices.Clone(v)
				}
				list[i] = m
			}
		}
		if list != nil {
			return list
		}
	case string:
		switch {
		case f.hide != nil:
			return f.masked(v, stars(v), within)
		case within && v != "":
			f.add(path)
			f.texts = append(f.texts, v)
			f.short = f.short || len(v) < minWord
		}
	case metadata.Number:
		switch {
		case f.hide != nil:
			return f.masked(string(v), hidden, within && !v.Falsy())
		case within && !v.Falsy():
			f.add(path)
			f.numbers = append(f.numbers, v)
			f.short = f.short || digits(v) < minWord
		}
	}
	return nil
}

// masked is what is shown of a text, if that is something else.
func (f *finder) masked(text, secret string, within bool) any {
	if !within {
		secret = f.hide(text)
	}
	if secret == text {
		return nil
	}
	return secret
}

func (f *finder) object(v *metadata.Object, path string, within bool) (masked *metadata.Object) {
	if path != "" {
		path += "."
	}
	key, name := "", ""
	if !within {
		key, name = secretNamed(v)
	}
	for k, w := range v.All() {
		at, within := path+k, within
		if k == key && name != "" {
			at, within = at+" "+name, true // with another name it is another key
		}
		if within && f.hide == nil && secretLike(k) {
			f.add(at)
			f.texts = append(f.texts, k)
		}
		m := f.value(w, at, within || f.secret(at))
		if m == nil {
			continue
		}
		if masked == nil {
			masked = &metadata.Object{}
			for k, w := range v.All() {
				masked.Set(k, w)
			}
		}
		masked.Set(k, m)
	}
	return masked
}

// named are the keys that give a value a name: Heat's inputs, and tags of AWS.
var named = []struct {
	value string
	names []string
}{{"value", []string{"name", "key"}}, {"Value", []string{"Key", "Name"}}}

// secretNamed is the key of the value that an object has a name for, and the
// name, if it is that of a secret.
func secretNamed(v *metadata.Object) (key, name string) {
	for _, n := range named {
		if _, ok := v.Get(n.value); !ok {
			continue
		}
		for _, k := range n.names {
			w, _ := v.Get(k)
			if name, ok := w.(string); ok && secretWord(name) {
				return n.value, name
			}
		}
	}
	return "", ""
}

// NamedSecret says that a dotted key is that of a value beside the name of a
// secret, or below one. It leads through objects.
func NamedSecret(doc *metadata.Object, key string) bool {
	for part := range strings.SplitSeq(key, ".") {
		if value, _ := secretNamed(doc); value == part && value != "" {
			return true
		}
		below, _ := doc.Get(part)
		o, ok := below.(*metadata.Object)
		if !ok {
			return false
		}
		doc = o
	}
	return false
}

// add notes that the value of a key is a secret. Items of a list have its key.
func (f *finder) add(path string) {
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

// spellings are the texts in which a secret may be found: itself, and each of its
// lines. They have its memory in common.
func spellings(v string) []string {
	all := []string{v}
	if trimmed := strings.TrimSpace(v); trimmed != v {
		all = append(all, trimmed) // the ends of lines that a program printed are
	}
	if strings.Contains(v, "\n") {
		for l := range strings.Lines(v) {
			all = append(all, strings.TrimSpace(l))
		}
	}
	return all
}

func digits(n metadata.Number) (count int) {
	for i := range len(n) {
		if n[i] >= '0' && n[i] <= '9' {
			count++
		}
	}
	return count
}

// spelledNumber are the spellings of a number; none of a short one.
func spelledNumber(n metadata.Number) []string {
	if digits(n) < minWord {
		return nil
	}
	all := []string{string(n)}
	f, err := strconv.ParseFloat(string(n), 64)
	if err != nil || len(n) > 400 {
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
