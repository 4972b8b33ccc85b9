package schema

import (
	"fmt"
	"strings"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/metadata"
)

// ofType tells whether a value is of a type. Numbers may be written as text,
// which is how Heat delivers parameters; true and false may not, as the text
// "false" is true to a template.
func ofType(v any, typeName string) bool {
	switch typeName {
	case "any":
		return true
	case "object":
		_, ok := v.(*metadata.Object)
		return ok
	case "list":
		_, ok := v.([]any)
		return ok
	case "bool":
		_, ok := v.(bool)
		return ok
	case "string":
		_, ok := v.(string)
		return ok
	}
	text, ok := v.(string)
	if n, isNumber := v.(metadata.Number); isNumber {
		text, ok = string(n), true
	}
	if !ok {
		return false
	}
	switch typeName {
	case "int":
		return isInt(text)
	case "number":
		return isNumber(text)
	}
	return applycfg.OfType(text, typeName)
}

// isInt says that text is an integer of any size, as JSON writes it.
func isInt(text string) bool {
	digits, negative := strings.CutPrefix(text, "-")
	if digits != "" && digits[0] == '0' {
		return digits == "0" && !negative
	}
	return afterDigits(digits) == "" && digits != ""
}

// isNumber says that text is a number of RFC 8259, section 6.
func isNumber(text string) bool {
	whole := strings.TrimPrefix(text, "-")
	rest := afterDigits(whole)
	if whole == rest || whole[0] == '0' && len(whole)-len(rest) > 1 {
		return false
	}
	if fraction, ok := strings.CutPrefix(rest, "."); ok {
		if rest = afterDigits(fraction); rest == fraction {
			return false
		}
	}
	if rest == "" {
		return true
	}
	if rest[0] != 'e' && rest[0] != 'E' {
		return false
	}
	exponent := rest[1:]
	if exponent != "" && (exponent[0] == '+' || exponent[0] == '-') {
		exponent = exponent[1:]
	}
	return exponent != "" && afterDigits(exponent) == ""
}

// afterDigits is what follows the digits that a text begins with.
func afterDigits(text string) string { return strings.TrimLeft(text, "0123456789") }

// WithDefaults returns the metadata with the defaults of keys that are not
// there, or null. It is not changed itself.
func (s *Schema) WithDefaults(doc *metadata.Object) *metadata.Object {
	if s == nil {
		return doc
	}
	defaults := &metadata.Object{}
	for i := range s.Keys {
		k := &s.Keys[i]
		if k.Default == nil {
			continue
		}
		if _, there := metadata.Lookup(doc, k.Name); !there && reachable(doc, k.Name) {
			put(defaults, k.Name, k.Default)
		}
	}
	// The metadata's own null would win over a default.
	return metadata.Merge(doc, defaults)
}

// reachable tells whether a key can be set without replacing something that is
// no object.
func reachable(doc *metadata.Object, name string) bool {
	for above := parent(name); above != ""; above = parent(above) {
		if v, there := metadata.Lookup(doc, above); there {
			_, ok := v.(*metadata.Object)
			return ok
		}
	}
	return true
}

// put sets a dotted key, and makes the objects above it. Where an object is the
// default of a key above, its parts stay.
func put(o *metadata.Object, name string, v any) {
	for {
		first, rest, more := strings.Cut(name, ".")
		old, _ := o.Get(first)
		below, ok := old.(*metadata.Object)
		switch {
		case !more && ok:
			if object, isObject := v.(*metadata.Object); isObject {
				v = metadata.Merge(below, object)
			}
			o.Set(first, own(v))
			return
		case !more:
			o.Set(first, own(v))
			return
		case !ok:
			below = &metadata.Object{}
			o.Set(first, below)
		}
		o, name = below, rest
	}
}

// own copies the objects of a default, so that keys can be put into them.
func own(v any) any {
	object, ok := v.(*metadata.Object)
	if !ok {
		return v
	}
	c := &metadata.Object{}
	for k, w := range object.All() {
		c.Set(k, own(w))
	}
	return c
}

// Problem is what is wrong with a value.
type Problem struct {
	Key   string `json:"key"`   // as it is in the metadata: servers.0.name
	What  string `json:"what"`  // "is not there", "is text, not of type int"
	Place string `json:"place"` // where the schema says so, FILE:LINE
	// Rule is the key as the schema has it: servers[].name.
	Rule string `json:"rule"`
}

func (p Problem) String() string { return fmt.Sprintf("key %s %s (%s)", p.Key, p.What, p.Place) }

// Validate says what is wrong with metadata, in the order of the schema's
// keys; what has keys below it has to be a list or an object, too. Values are
// not shown: they may be secrets.
func (s *Schema) Validate(doc *metadata.Object) []Problem {
	var all []Problem
	if s == nil {
		return nil
	}
	for _, k := range s.rules {
		each(doc, strings.Split(strings.ReplaceAll(k.Name, "[]", ".[]"), "."), "", func(key string, v any) {
			switch {
			case v == nil && k.Required:
				all = append(all, Problem{key, "is not there", k.place(), k.Name})
			case v != nil && !ofType(v, k.Type):
				all = append(all, Problem{key, fmt.Sprintf("is %s, not of type %s", kindOf(v), k.Type), k.place(), k.Name})
			}
		})
	}
	return all
}

// each calls f for everything that a path leads to, with nil for what is not
// there. A list that is not there has no items.
func each(v any, path []string, at string, f func(key string, v any)) {
	if len(path) == 0 {
		f(at, v)
		return
	}
	if path[0] == "[]" {
		list, _ := v.([]any)
		for i, item := range list {
			each(item, path[1:], fmt.Sprintf("%s.%d", at, i), f)
		}
		return
	}
	var next any
	if o, ok := v.(*metadata.Object); ok {
		next, _ = o.Get(path[0])
	}
	if at != "" {
		at += "."
	}
	each(next, path[1:], at+path[0], f)
}

func kindOf(v any) string {
	switch v.(type) {
	case *metadata.Object:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "text"
	case bool:
		return "true or false"
	}
	return "a number"
}

// Secret tells whether the schema calls a dotted key, or one above it, a
// secret; items of lists have the key of their list.
func (s *Schema) Secret(key string) bool {
	if s == nil || len(s.secrets) == 0 {
		return false
	}
	for ; key != ""; key = parent(key) {
		if s.secrets[key] {
			return true
		}
	}
	return false
}

// Key is what the schema says of a key, or nil.
func (s *Schema) Key(name string) *Key {
	if s == nil {
		return nil
	}
	return s.names[name]
}

// Near is the schema's key that is most like one, or "": what was meant by a
// typing error.
func (s *Schema) Near(key string) string {
	best, least := "", 3
	for i := range s.Keys {
		if d := distance(key, s.Keys[i].Name); d < least {
			best, least = s.Keys[i].Name, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := last
			if a[i] != b[j] {
				d++
			}
			last, row[j+1] = row[j+1], min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
