package schema

import (
	"slices"
	"strings"

	"goldsmith/internal/template"
)

// Resolver finds what templates mean by keys. It remembers the sections that it
// has seen.
type Resolver struct {
	schema *Schema
	seen   map[*template.Section]frames
}

// frames are the keys that the schema has for the sections around a tag.
type frames struct {
	// names have keys below them; the innermost is last, and each is there once.
	names []string
	inner string // what {{.}} means
	// unknown says that nobody knows what is in one of the sections.
	unknown bool
}

// Resolver returns one for templates of this schema, which may be nil.
func (s *Schema) Resolver() *Resolver {
	return &Resolver{s, map[*template.Section]frames{nil: {names: []string{""}}}}
}

// Resolve finds what a template means by a key inside a section. ok is false
// where the schema knows the beginning of the key and not the key. name is
// empty where the schema says nothing of it.
func (r *Resolver) Resolve(key string, within *template.Section) (name string, ok bool) {
	if r.schema == nil {
		return "", true
	}
	var missing []*template.Section
	for w := within; ; w = w.Outer {
		if _, known := r.seen[w]; known {
			break
		}
		missing = append(missing, w)
	}
	for _, w := range slices.Backward(missing) {
		r.seen[w] = r.schema.enter(w.Key, r.seen[w.Outer])
	}
	return r.schema.resolve(key, r.seen[within])
}

// enter returns the frames inside a section.
func (s *Schema) enter(section string, f frames) frames {
	name, known := s.resolve(section, f)
	if !known || name == "" {
		return frames{unknown: true}
	}
	if k := s.names[name]; k != nil && k.Type == "list" || s.has(name+"[]") {
		name += "[]"
	}
	f.inner = name
	if s.above[name] != nil {
		outer := slices.DeleteFunc(slices.Clone(f.names), func(n string) bool { return n == name })
		f.names = append(outer, name)
	}
	return f
}

// resolve is Resolve inside frames.
func (s *Schema) resolve(key string, in frames) (name string, ok bool) {
	if in.unknown {
		return "", true
	}
	if key == "." {
		return in.inner, true
	}
	first, _, dotted := strings.Cut(key, ".")
	for _, f := range slices.Backward(in.names) {
		if f != "" {
			f += "."
		}
		if !s.has(f + first) {
			continue
		}
		if dotted && !s.has(f+key) && !s.open(f+key) {
			return "", false
		}
		return f + key, true
	}
	return "", true
}

// has tells whether the schema has a key, or keys below it.
func (s *Schema) has(name string) bool { return s.names[name] != nil || s.above[name] != nil }

// open tells whether a key above this one may hold anything.
func (s *Schema) open(name string) bool {
	for above := parent(name); above != ""; above = parent(above) {
		if k := s.names[above]; k != nil {
			// An object whose parts are not listed may have any.
			return k.Type == "any" || k.Type == "object" && s.above[above] == nil
		}
	}
	return false
}
