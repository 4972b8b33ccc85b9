// Package yamlfile reads the YAML files that people write for goldsmith (image
// definitions, pipelines) and says what is wrong with them by file and line.
//
// A field that the Go structure does not have is an error: a misspelt key must
// not be silently without effect.
package yamlfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// maxSize bounds a file that a person wrote, in bytes.
const maxSize = 1 << 20

// File is a file that has been read, kept to find lines by.
type File struct {
	Path    string
	content []byte
	root    yaml.Node
}

// Read decodes the file at path into the structure v points to. Every error
// is a bad input error that names the file and, where there is one, the line;
// it holds all [Problems] of the file that can be told from each other.
func Read(path string, v any) (*File, error) {
	b, err := Content(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, b, v)
}

// Content returns what is in a file that a person wrote: at most 1 MiB.
func Content(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	if fi.Size() > maxSize || !fi.Mode().IsRegular() {
		return nil, command.BadInput(fmt.Errorf("%s: not a YAML file", path), "expected a text file of at most 1 MiB")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, unreadable(path, err)
	}
	return b, nil
}

// unreadable says why a file cannot be read: "no such file or directory",
// "permission denied".
func unreadable(path string, err error) error {
	switch pe, ok := errors.AsType[*fs.PathError](err); {
	case errors.Is(err, fs.ErrNotExist):
		err = errors.New("no such file")
	case ok:
		err = pe.Err
	}
	return command.BadInput(fmt.Errorf("%s: %w", path, err), "")
}

// Parse is Read for content that is already in memory.
func Parse(path string, content []byte, v any) (*File, error) {
	f, err := ParsePartly(path, content, v)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ParsePartly is Parse for a caller that goes on looking for what else is
// wrong: the file comes with the error where it is YAML, and v holds what is
// right of it.
func ParsePartly(path string, content []byte, v any) (*File, error) {
	f := &File{Path: path, content: content}
	if len(content) > maxSize {
		return nil, f.problem(0, "not a YAML file", "expected a text file of at most 1 MiB")
	}
	if err := yaml.Unmarshal(content, &f.root); err != nil {
		return nil, f.bad(err)
	}
	if n := emptyItem(&f.root); n != nil {
		return nil, f.problem(n.Line, "an item of the list is empty", "")
	}
	if n := largeMapping(&f.root); n != nil {
		return nil, f.problem(n.Line, fmt.Sprintf("a mapping has more than %d keys", maxKeys), "")
	}
	dec := yaml.NewDecoder(bytes.NewReader(content))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, f.problem(0, "empty", "")
		}
		if _, ok := errors.AsType[*yaml.TypeError](err); !ok {
			return nil, f.bad(err)
		}
		return f, f.bad(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, f.problem(0, "more than one YAML document", "keep the first one only")
	}
	return f, nil
}

// emptyItem returns an item of a list that holds nothing ("- "), or nil. In
// the structure it would be a zero value that nobody wrote.
func emptyItem(n *yaml.Node) *yaml.Node {
	for _, c := range n.Content {
		if n.Kind == yaml.SequenceNode && c.Kind == yaml.ScalarNode && c.Tag == "!!null" {
			return c
		}
		if found := emptyItem(c); found != nil {
			return found
		}
	}
	return nil
}

// maxKeys bounds the keys of one mapping: the library compares each with every
// other.
const maxKeys = 5000

// largeMapping returns a mapping with more keys than that, or nil.
func largeMapping(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.MappingNode && len(n.Content) > 2*maxKeys {
		return n
	}
	for _, c := range n.Content {
		if found := largeMapping(c); found != nil {
			return found
		}
	}
	return nil
}

var (
	atLine  = regexp.MustCompile(`^line (\d+): (.*)$`)
	noField = regexp.MustCompile(`^field (.+) not found in type \S+$`)
	noValue = regexp.MustCompile("^cannot unmarshal !!(\\S+) (?:`(.*)` )?into (\\S+)$")
)

// fieldsHint is what to do about a value of the wrong form.
const fieldsHint = "docs/formats.md describes every field"

// bad turns the YAML library's error, which may list several, into ours.
func (f *File) bad(err error) error {
	te, ok := errors.AsType[*yaml.TypeError](err)
	if !ok || len(te.Errors) == 0 {
		line, msg := yaml11.LibraryError(err, f.content)
		return f.problem(line, inWords(msg), fieldsHint)
	}
	var all []error
	for _, msg := range te.Errors {
		line := 0
		if m := atLine.FindStringSubmatch(msg); m != nil {
			line, _ = strconv.Atoi(m[1])
			msg = m[2]
		}
		all = append(all, f.problem(line, inWords(msg), fieldsHint))
	}
	return Join(all...)
}

// inWords says the library's message as people do.
func inWords(msg string) string {
	msg, _, _ = strings.Cut(msg, "\n")
	if m := noField.FindStringSubmatch(msg); m != nil {
		return fmt.Sprintf("unknown field %q", m[1])
	}
	if m := noValue.FindStringSubmatch(msg); m != nil {
		msg = fmt.Sprintf("expected %s, found %s", kind(m[3]), kind(m[1]))
		if m[2] != "" {
			msg += fmt.Sprintf(" %q", m[2])
		}
	}
	return msg
}

// kind says a YAML or Go type in words.
func kind(t string) string {
	switch {
	case t == "str" || t == "string":
		return "text"
	case t == "seq" || strings.HasPrefix(t, "[]"):
		return "a list"
	case t == "map" || strings.HasPrefix(t, "map[") || strings.Contains(t, "."):
		return "a mapping"
	case t == "int" || t == "float":
		return "a number"
	case t == "bool":
		return "true or false"
	}
	return t
}

// Errorf reports a wrong value at the place that keys lead to: field names
// (string) and list positions (int) from the document's top.
func (f *File) Errorf(keys []any, format string, args ...any) error {
	return f.problem(f.line(keys), fmt.Sprintf(format, args...), "")
}

// ErrorAt is Errorf for a line that is known.
func (f *File) ErrorAt(line int, format string, args ...any) error {
	return f.problem(line, fmt.Sprintf(format, args...), "")
}

// Line is the line of the value that keys and indexes lead to, or of the last
// one on the way that there is; 0 in an empty file.
func (f *File) Line(keys ...any) int { return f.line(keys) }

func (f *File) line(keys []any) int {
	if len(f.root.Content) == 0 {
		return 0
	}
	n := f.root.Content[0]
	for _, k := range keys {
		next := child(n, k)
		if next == nil {
			break
		}
		n = next
	}
	return n.Line
}

func child(n *yaml.Node, key any) *yaml.Node {
	n = resolve(n)
	switch k := key.(type) {
	case int:
		if n.Kind == yaml.SequenceNode && k < len(n.Content) {
			return n.Content[k]
		}
	case string:
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == k {
				return n.Content[i+1]
			}
		}
	}
	return nil
}

// resolve returns what an alias ("*name") stands for, and any other node
// itself.
func resolve(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// Decode reads one mapping of the file into the structure v points to. A key
// that v has no field for is an error.
func (f *File) Decode(n *yaml.Node, v any) error {
	m := resolve(n)
	if m.Kind != yaml.MappingNode {
		return f.problem(n.Line, "expected a mapping", "")
	}
	// First, since the library notices a mapping that is merged into itself.
	err := m.Decode(v)
	if err != nil {
		err = f.bad(err)
		if len(Of(err)) == 0 || Of(err)[0].Line == 0 {
			return err
		}
	}
	all := []error{err}
	for _, u := range unknown(m, reflect.TypeOf(v), nil) {
		all = append(all, f.problem(u.key.Line, fmt.Sprintf("unknown field %q", u.key.Value), "known are "+strings.Join(u.known, ", ")))
	}
	return Join(all...)
}

// stray is a key that is not among those known where it stands.
type stray struct {
	key   *yaml.Node
	known []string
}

// unknown adds the keys that a value of type t has no field for: of a mapping, of
// those that are merged into it ("<<: *name"), and of all that is in them.
func unknown(n *yaml.Node, t reflect.Type, found []stray) []stray {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	n = resolve(n)
	switch {
	case t == reflect.TypeFor[yaml.Node](), reflect.PointerTo(t).Implements(reflect.TypeFor[yaml.Unmarshaler]()): // somebody else looks
	case t.Kind() == reflect.Slice && n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			found = unknown(item, t.Elem(), found)
		}
	case t.Kind() == reflect.Struct && n.Kind == yaml.MappingNode:
		found = unknownKeys(n, fields(t), found)
	}
	return found
}

func unknownKeys(m *yaml.Node, known []field, found []stray) []stray {
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], resolve(m.Content[i+1])
		if key.Tag != "!!merge" {
			at := slices.IndexFunc(known, func(f field) bool { return f.name == key.Value })
			switch {
			case at >= 0:
				found = unknown(value, known[at].is, found)
			case len(found) < maxProblems:
				found = append(found, stray{key, names(known)})
			}
			continue
		}
		merged := []*yaml.Node{value}
		if value.Kind == yaml.SequenceNode {
			merged = value.Content
		}
		for _, n := range merged {
			found = unknownKeys(resolve(n), known, found)
		}
	}
	return found
}

// field is one that a structure takes.
type field struct {
	name string // as the YAML library names it
	is   reflect.Type
}

// Fields returns the keys that a structure of type t takes, in its order.
func Fields(t reflect.Type) []string { return names(fields(t)) }

func names(fields []field) (list []string) {
	for _, f := range fields {
		list = append(list, f.name)
	}
	return list
}

// fields returns the fields that a structure takes, by the tag, or the field's
// name in lower case. Those of a structure that is inline are its own.
func fields(t reflect.Type) (list []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case option == "inline":
			list = append(list, fields(f.Type)...)
		case f.IsExported() && name != "-":
			list = append(list, field{cmp.Or(name, strings.ToLower(f.Name)), f.Type})
		}
	}
	return list
}
