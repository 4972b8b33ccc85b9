// Package metadata holds the documents that configuration is made of: JSON
// objects from several sources, merged in order, looked up by dotted keys.
//
// Values keep what encoding/json forgets and templates show: the order of
// keys, integers of any size, and numbers as Python prints them (1e3 is
// 1000.0), because the programs that configuration was written for are
// Python. A value is one of nil, bool, string, [Number], []any and [*Object].
// Values are not changed once they are parsed or merged; copies share them.
//
// The package reads no files and knows no key's meaning.
package metadata

import (
	"iter"
	"maps"
	"slices"
	"strings"
)

// Object is a mapping that remembers the order in which keys first appeared.
// Nil is an empty object for reading.
type Object struct {
	members []member
	index   map[string]int // place of a key; nil while there are few
}

type member struct {
	key   string
	value any
}

// few is how many keys are found as fast without an index.
const few = 12

// find is the place of a key, or -1.
func (o *Object) find(key string) int {
	if o == nil {
		return -1
	}
	if o.index != nil {
		if i, ok := o.index[key]; ok {
			return i
		}
		return -1
	}
	for i := range o.members {
		if o.members[i].key == key {
			return i
		}
	}
	return -1
}

// Get returns the value of a key and whether it is there; null is there.
func (o *Object) Get(key string) (any, bool) {
	if i := o.find(key); i >= 0 {
		return o.members[i].value, true
	}
	return nil, false
}

// newObject is an object of members, of which the last of a name counts.
func newObject(members []member) *Object {
	o := &Object{members: make([]member, 0, len(members))}
	if len(members) > few {
		o.index = make(map[string]int, len(members))
	}
	for _, m := range members {
		o.Set(m.key, m.value)
	}
	return o
}

// Set gives a key a value. A new key goes last; a known one keeps its place.
func (o *Object) Set(key string, value any) {
	if i := o.find(key); i >= 0 {
		o.members[i].value = value
		return
	}
	if o.members == nil {
		o.members = make([]member, 0, 8)
	}
	o.members = append(o.members, member{key, value})
	switch {
	case o.index != nil:
		o.index[key] = len(o.members) - 1
	case len(o.members) > few:
		o.index = make(map[string]int, 2*len(o.members))
		for i := range o.members {
			o.index[o.members[i].key] = i
		}
	}
}

// Len is the number of keys.
func (o *Object) Len() int {
	if o == nil {
		return 0
	}
	return len(o.members)
}

// All yields keys and values in order.
func (o *Object) All() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		if o == nil {
			return
		}
		for i := range o.members {
			if !yield(o.members[i].key, o.members[i].value) {
				return
			}
		}
	}
}

// Falsy says that a template section about the object is not rendered.
func (o *Object) Falsy() bool { return o.Len() == 0 }

// clone copies the object, not its values.
func (o *Object) clone() *Object {
	if o == nil {
		return &Object{}
	}
	return &Object{slices.Clone(o.members), maps.Clone(o.index)}
}

// Merge makes one object of several. The later wins: an object goes into an
// object key by key; anything else replaces what was there. The arguments are
// not changed.
func Merge(docs ...*Object) *Object {
	sum := &Object{}
	for _, d := range docs {
		switch {
		case d.Len() == 0:
		case sum.Len() == 0:
			sum = d.clone()
		default:
			sum = merge(sum, d)
		}
	}
	return sum
}

func merge(a, b *Object) *Object {
	sum := a.clone()
	for k, v := range b.All() {
		old, _ := sum.Get(k)
		oldObject, ok1 := old.(*Object)
		newObject, ok2 := v.(*Object)
		if ok1 && ok2 {
			v = merge(oldObject, newObject)
		}
		sum.Set(k, v)
	}
	return sum
}

// Lookup follows a dotted key such as "a.b.0" through objects and lists; a
// negative index counts from the end, and is written as [Int] reads it. Null on the way, or at the end, counts
// as not there. A key that itself contains a dot cannot be reached.
func Lookup(doc any, key string) (any, bool) {
	for part := range strings.SplitSeq(key, ".") {
		switch v := doc.(type) {
		case *Object:
			doc, _ = v.Get(part)
		case []any:
			doc = element(v, part)
		default:
			return nil, false
		}
		if doc == nil {
			return nil, false
		}
	}
	return doc, true
}

func element(list []any, index string) any {
	i, ok := Int(index)
	if !ok {
		return nil
	}
	if i < 0 {
		i += len(list)
	}
	if i < 0 || i >= len(list) {
		return nil
	}
	return list[i]
}

// Object returns the object at a dotted key, which leads through objects only.
func (o *Object) Object(key string) (*Object, bool) {
	for part := range strings.SplitSeq(key, ".") {
		v, _ := o.Get(part)
		next, ok := v.(*Object)
		if !ok {
			return nil, false
		}
		o = next
	}
	return o, true
}

// Text returns the string at a dotted key; ok is false when it is not there
// or not a string.
func (o *Object) Text(key string) (text string, ok bool) {
	v, _ := Lookup(o, key)
	text, ok = v.(string)
	return text, ok
}

// Equal says whether two values mean the same; the order of keys does not
// matter.
func Equal(a, b any) bool {
	switch a := a.(type) {
	case *Object:
		b, ok := b.(*Object)
		if !ok || a.Len() != b.Len() {
			return false
		}
		for k, v := range a.All() {
			w, ok := b.Get(k)
			if !ok || !Equal(v, w) {
				return false
			}
		}
		return true
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, Equal)
	}
	if _, ok := b.([]any); ok {
		return false
	}
	return a == b
}
