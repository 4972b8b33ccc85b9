// Package schema says what a template tree expects of the metadata: of each
// key its type, its default, whether it has to be there and whether it is a
// secret.
//
// A schema is a directory of YAML files, schema.d, beside the root of the
// templates: everything inside that is rendered. Each element brings a file of
// its own. A file is a mapping of dotted keys:
//
//	redis.port:     {type: int, default: 6379}
//	redis.password: {type: string, required: true, secret: true}
//	redis.hosts:    {type: list}
//	redis.hosts[]:  {type: netaddress}
//
// NAME[] is each item of a list. Keys that no schema names are not looked at,
// unless their beginning is in one: a key "redis.prot" that a template reads is
// an error where a schema has keys that begin with "redis.".
package schema

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/yamlfile"
)

// Key is what a schema says of one key.
type Key struct {
	Name     string // dotted; a name that ends in [] is each item of a list
	Type     string // string, int, number, bool, list, object, any, or one of applycfg --type
	Default  any    // a value of package metadata; nil: none
	Required bool   // an error when it is not there, or null
	Secret   bool   // its value is not shown
	Doc      string // for people
	File     string // where it says so
	Line     int
}

// place is where a schema says something: "schema.d/redis.yaml:3".
func (k *Key) place() string { return fmt.Sprintf("%s:%d", k.File, k.Line) }

// Schema is what a directory says. Nil, or the zero value, says nothing.
type Schema struct {
	Keys    []Key // sorted by name
	names   map[string]*Key
	above   map[string]*Key // what keys lie below, of type list or object: of a.b[].c these are a.b[], a.b, a
	rules   []*Key          // all of Keys and above, sorted by name
	secrets map[string]bool // without []
}

// Dir is where the schema of a template tree lies.
func Dir(templates string) string {
	return filepath.Join(filepath.Dir(filepath.Clean(templates)), "schema.d")
}

// entry is a key's value in a file.
type entry struct {
	Type     string    `yaml:"type"`
	Default  yaml.Node `yaml:"default"`
	Required bool      `yaml:"required"`
	Secret   bool      `yaml:"secret"`
	Doc      string    `yaml:"doc"`
}

// jsonTypes are the types that values of JSON have.
var jsonTypes = []string{"any", "bool", "int", "list", "number", "object", "string"}

// Read reads all NAME.yaml of a directory. One that is not there says nothing.
// The error names file and line.
func Read(dir string) (*Schema, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &Schema{names: map[string]*Key{}, above: map[string]*Key{}, secrets: map[string]bool{}}
	form := nameForm()
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".yaml" {
			continue
		}
		if err := s.read(filepath.Join(dir, e.Name()), form); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(s.Keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	for i := range s.Keys {
		s.names[s.Keys[i].Name] = &s.Keys[i]
		if s.Keys[i].Secret {
			s.secrets[strings.ReplaceAll(s.Keys[i].Name, "[]", "")] = true
		}
		s.rules = append(s.rules, &s.Keys[i])
	}
	if err := s.addAbove(); err != nil {
		return nil, err
	}
	slices.SortStableFunc(s.rules, func(a, b *Key) int { return strings.Compare(a.Name, b.Name) })
	return s, s.checkDefaults()
}

// remedy is for what is wrong with a schema.
const remedy = "such as redis.port: {type: int, default: 6379}; docs/templates.md describes schemas"

func bad(k *Key, format string, args ...any) error {
	return command.BadInput(fmt.Errorf("%s: key %s: %s", k.place(), k.Name, fmt.Sprintf(format, args...)), remedy)
}

func (s *Schema) read(path string, form *regexp.Regexp) error {
	file := map[string]entry{}
	f, err := yamlfile.Read(path, &file)
	if err != nil {
		return command.Hint(err, remedy)
	}
	for _, name := range slices.Sorted(maps.Keys(file)) {
		e := file[name]
		k := Key{Name: name, Type: e.Type, Required: e.Required, Secret: e.Secret, Doc: e.Doc, File: path, Line: f.Line(name)}
		if k.Type == "" {
			k.Type = "any"
		}
		if k.Default, err = value(&e.Default); err != nil {
			return bad(&k, "default: %v", err)
		}
		if err := k.check(form); err != nil {
			return err
		}
		if o := s.names[name]; o != nil {
			if o.Type != k.Type || !metadata.Equal(o.Default, k.Default) || o.Required != k.Required || o.Secret != k.Secret {
				return bad(&k, "is another in %s", o.place())
			}
			continue
		}
		s.names[name] = &k
		s.Keys = append(s.Keys, k)
	}
	return nil
}

func nameForm() *regexp.Regexp {
	return regexp.MustCompile(`^[^.\[\]\s]+(\[\])*(\.[^.\[\]\s]+(\[\])*)*$`)
}

func (k *Key) check(form *regexp.Regexp) error {
	switch {
	case !form.MatchString(k.Name):
		return bad(k, "a key is written a.b, an item of a list a.b[]")
	case !slices.Contains(jsonTypes, k.Type) && !applycfg.KnownType(k.Type):
		return bad(k, "no such type: %q (%s; %s)", k.Type, strings.Join(jsonTypes, ", "), applycfg.TypesHint())
	case k.Required && k.Default != nil:
		return bad(k, "what has a default need not be required")
	case k.Default != nil && strings.Contains(k.Name, "[]"):
		return bad(k, "an item of a list has no default")
	case k.Default != nil && !ofType(k.Default, k.Type):
		return bad(k, "its default is not of type %s", k.Type) // which may be a secret
	}
	return nil
}

// addAbove finds what keys lie below, which has to be a list or an object, and
// refuses keys below what cannot have any.
func (s *Schema) addAbove() error {
	for i := range s.Keys {
		k := &s.Keys[i]
		for name, above := k.Name, parent(k.Name); above != ""; name, above = above, parent(above) {
			want := "object"
			if name == above+"[]" {
				want = "list"
			}
			if o := s.names[above]; o != nil && o.Type != want && o.Type != "any" {
				return bad(k, "%s is of type %s (%s), so it has no such part", above, o.Type, o.place())
			}
			if o := s.above[above]; o != nil {
				if o.Type != want {
					return bad(k, "%s is of type %s for another key (%s), so it has no such part", above, o.Type, o.place())
				}
				break // and so are those above
			}
			rule := &Key{Name: above, Type: want, File: k.File, Line: k.Line}
			s.above[above] = rule
			if o := s.names[above]; o == nil || o.Type == "any" {
				s.rules = append(s.rules, rule)
			}
		}
	}
	return nil
}

// checkDefaults holds the parts of defaults to what the schema says of them.
func (s *Schema) checkDefaults() error {
	for i := range s.Keys {
		k := &s.Keys[i]
		if k.Default == nil || s.above[k.Name] == nil {
			continue // has no parts that anything is said of
		}
		alone := &metadata.Object{}
		put(alone, k.Name, k.Default)
		for _, p := range s.Validate(alone) {
			if p.Key == k.Name || strings.HasPrefix(p.Key, k.Name+".") {
				return bad(k, "its default is wrong: %s %s", p.Key, p.What)
			}
		}
	}
	return nil
}

// parent is the key above a key: of a.b[].c it is a.b[], then a.b, a, "".
func parent(name string) string {
	if list, ok := strings.CutSuffix(name, "[]"); ok {
		return list
	}
	return name[:max(0, strings.LastIndexByte(name, '.'))]
}

// value makes a value of package metadata of a YAML node; of none, nil.
func value(n *yaml.Node) (any, error) {
	if n.Kind == 0 || n.Tag == "!!null" {
		return nil, nil
	}
	exact(n)
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, err
	}
	return convert(v)
}

// large begins a text that stands for a large integer. YAML has no such
// character.
const large = "\x00"

// exact keeps integers that the YAML library would make floating point numbers.
func exact(n *yaml.Node) {
	for _, inner := range n.Content {
		exact(inner)
	}
	if n.Alias != nil && n.Alias.Kind == yaml.ScalarNode {
		exact(n.Alias)
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!float" {
		return
	}
	if i, ok := new(big.Int).SetString(n.Value, 0); ok {
		n.SetString(large + i.String())
	}
}

func convert(v any) (any, error) {
	switch v := v.(type) {
	case string:
		if number, ok := strings.CutPrefix(v, large); ok {
			return metadata.Number(number), nil
		}
		return v, nil
	case nil, bool:
		return v, nil
	case int:
		return metadata.Number(fmt.Sprint(v)), nil
	case int64, uint64:
		return metadata.Number(fmt.Sprint(v)), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			break
		}
		return metadata.Float(v), nil
	case []any:
		list := make([]any, len(v))
		for i := range v {
			var err error
			if list[i], err = convert(v[i]); err != nil {
				return nil, err
			}
		}
		return list, nil
	case map[string]any:
		o := &metadata.Object{}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			w, err := convert(v[k])
			if err != nil {
				return nil, err
			}
			o.Set(k, w)
		}
		return o, nil
	}
	return nil, fmt.Errorf("a value that JSON has not: %v", v)
}
