package hook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// HeaderMark begins the line of a hook in which it says something of itself,
// as a JSON object: "## goldsmith: {...}". Who runs the hook says which members
// there are.
const HeaderMark = "## goldsmith:"

// Header decodes the first such line of a hook into a pointer to a struct. A
// hook without one leaves it as it is. The error names the line: no JSON, or a
// member that the struct has not.
func Header(text []byte, into any) error {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		rest, ok := bytes.CutPrefix(line, []byte(HeaderMark))
		if !ok {
			continue
		}
		d := json.NewDecoder(bytes.NewReader(rest))
		d.DisallowUnknownFields()
		err := d.Decode(into)
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("%q: a %s does not belong there", e.Field, e.Value)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		if d.More() {
			return fmt.Errorf("line %d: more than one JSON object", n)
		}
		return nil
	}
	return nil
}
