package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// HeaderMark begins the line of a hook in which it says something of itself,
// as a JSON object: "## goldsmith: {...}". Who runs the hook says which members
// there are.
const HeaderMark = "## goldsmith:"

// Header decodes that line of a hook into a pointer to a struct. A hook without
// one leaves it as it is. The error names the line: no JSON object, a member
// that the struct has not by exactly this name, or a second such line.
func Header(text []byte, into any) error {
	n, first := 0, 0
	for line := range bytes.Lines(text) {
		n++
		rest, ok := bytes.CutPrefix(line, []byte(HeaderMark))
		if !ok {
			continue
		}
		if first > 0 {
			return fmt.Errorf("line %d: a second header; line %d is the first", n, first)
		}
		first = n
		if err := decodeHeader(bytes.TrimSpace(rest), into); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return nil
}

func decodeHeader(text []byte, into any) error {
	if !bytes.HasPrefix(text, []byte("{")) {
		return errors.New("not a JSON object, which is {...}")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	var members map[string]json.RawMessage
	err := d.Decode(&members)
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON object does not end on this line")
	case err != nil:
		return err
	case d.More():
		return errors.New("more than one JSON object")
	}
	// What encoding/json does not tell apart: Timeout and timeout.
	known := memberNames(reflect.TypeOf(into).Elem())
	for _, name := range slices.Sorted(maps.Keys(members)) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("unknown field %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	err = json.Unmarshal(text, into)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("%q: %s does not belong there", e.Field, kindOf(e.Value))
	}
	return err
}

// memberNames are the names of a struct's fields in JSON.
func memberNames(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// kindOf is what encoding/json calls a value, with its article.
func kindOf(value string) string {
	switch value {
	case "array":
		return "a list"
	case "object":
		return "an object"
	case "bool":
		return "true or false"
	}
	return "a " + value
}
