package schema

import (
	"errors"
	"fmt"
	"strings"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// Finding is what is wrong with a template tree, or with metadata for it.
type Finding struct {
	Template string `json:"template,omitempty"` // FILE:LINE that reads the key
	Key      string `json:"key"`
	Problem  string `json:"problem"`
	Schema   string `json:"schema,omitempty"` // FILE:LINE that says what it has to be
}

func (f Finding) String() string {
	s := fmt.Sprintf("key %s %s", f.Key, f.Problem)
	if f.Template != "" {
		s = f.Template + ": " + s
	}
	if f.Schema != "" {
		s += " (" + f.Schema + ")"
	}
	return s
}

// AsError makes an error of findings, a line for each; of none, nil.
func AsError(found []Finding) error {
	if len(found) == 0 {
		return nil
	}
	var lines []string
	for _, f := range found {
		lines = append(lines, f.String())
	}
	return command.BadInput(errors.New(strings.Join(lines, "\n")), "mend the metadata, the template, or the schema")
}

// Refuse is the error of metadata that are not what the schema says. It reads
// the templates only then, for where they read the keys.
func (s *Schema) Refuse(templates string, doc *metadata.Object) error {
	if len(s.Validate(doc)) == 0 {
		return nil
	}
	parsed, err := applycfg.Templates{Dir: templates}.Parse()
	if err != nil {
		return err
	}
	return AsError(s.Wrong(parsed, doc))
}

// Wrong are the values that are not what the schema says, each with a template
// that reads it.
func (s *Schema) Wrong(parsed []applycfg.Parsed, doc *metadata.Object) []Finding {
	var found []Finding
	var uses map[string]string
	for _, p := range s.Validate(doc) {
		if uses == nil {
			uses = s.firstUses(parsed)
		}
		found = append(found, Finding{uses[p.Rule], p.Key, p.What, p.Place})
	}
	return found
}

// firstUses is where each key of the schema is read first, FILE:LINE.
func (s *Schema) firstUses(parsed []applycfg.Parsed) map[string]string {
	at := map[string]string{}
	r := s.Resolver()
	for _, p := range parsed {
		for _, u := range p.Uses() {
			if name, ok := r.Resolve(u.Key, u.Within); ok && name != "" && at[name] == "" {
				at[name] = fmt.Sprintf("%s:%d", p.Source, u.Line)
			}
		}
	}
	return at
}

// Unknown are the keys that templates read and the schema has not, where it has
// others of their beginning.
func (s *Schema) Unknown(parsed []applycfg.Parsed) []Finding {
	var found []Finding
	r := s.Resolver()
	for _, p := range parsed {
		for _, u := range p.Uses() {
			if _, ok := r.Resolve(u.Key, u.Within); !ok {
				f := Finding{Template: fmt.Sprintf("%s:%d", p.Source, u.Line), Key: u.Key, Problem: "is not in the schema"}
				if near := s.Near(u.Key); near != "" {
					f.Problem += "; is it " + near + "?"
				}
				found = append(found, f)
			}
		}
	}
	return found
}

// Secrets tells which dotted keys of the metadata below a key (empty: all) are
// secret: by their names, or because the schema says so.
func (s *Schema) Secrets(below string) func(key string) bool {
	if below != "" {
		below += "."
	}
	return func(key string) bool { return applycfg.SecretName(below+key) || s.Secret(below+key) }
}
