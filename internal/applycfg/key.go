package applycfg

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// types are the value types that --type knows, as regular expressions of the
// whole value.
var types = map[string]string{
	"int":        `[0-9]+`,
	"default":    `[A-Za-z0-9_]*`,
	"netaddress": `[A-Za-z0-9/.:-]*`,
	"netdevice":  `[A-Za-z0-9/.:-]*`,
	"dsn": `[a-zA-Z0-9]+://([a-zA-Z0-9+_-]+(:[^@]+)?)?(@?[a-zA-Z0-9/_.-]+)?` +
		`(/[a-zA-Z0-9_-]+)?(\?[a-zA-Z0-9=_-]+)?`,
	"swiftdevices": `(r\p{Nd}+z\p{Nd}+-[A-Za-z0-9.-_]+:%PORT%/[^,]+,?)+`,
	"username":     `[A-Za-z0-9_-]+`,
	"raw":          ``,
}

// ofType says that a value is of a type. A final line feed is allowed, which
// is what Python's "$" does.
func ofType(value, typeName string) bool {
	return typeName == "raw" || regexp.MustCompile(`\A(?:`+types[typeName]+`)\n?\z`).MatchString(value)
}

// KnownType says that there is such a type.
func KnownType(name string) bool { return name == "raw" || types[name] != "" }

// TypesHint names the types.
func TypesHint() string {
	return "the types are " + strings.Join(slices.Sorted(maps.Keys(types)), ", ")
}

// Key returns the text of one value: strings as they are, numbers as Python
// prints them, everything else as JSON. The type guards a script that puts
// the value on a command line. ok is false when the key is not there.
func Key(doc *metadata.Object, key, typeName string) (text string, ok bool, err error) {
	v, ok := metadata.Lookup(doc, key)
	if !ok {
		return "", false, nil
	}
	if !KnownType(typeName) {
		return "", true, command.BadInput(fmt.Errorf("no such type: %q", typeName), TypesHint())
	}
	switch v := v.(type) {
	case string:
		text = v
	case metadata.Number:
		text = v.String()
	default:
		text = metadata.JSON(v)
	}
	switch {
	case !ofType(text, typeName):
		return "", true, command.Hint(fmt.Errorf("key %s: its value is not of type %s", key, typeName),
			"--type raw takes anything")
	case !utf8.ValidString(text):
		return "", true, fmt.Errorf("key %s: its value has half of a surrogate pair, which is no character", key)
	}
	return text, true, nil
}

// Bool returns the value of a key; ok is false when it is not there or
// neither true nor false.
func Bool(doc *metadata.Object, key string) (value, ok bool) {
	v, _ := metadata.Lookup(doc, key)
	value, ok = v.(bool)
	return value, ok
}

// Subhash returns the object at a dotted key; "" is the whole document.
func Subhash(doc *metadata.Object, key string) (*metadata.Object, error) {
	if key == "" {
		return doc, nil
	}
	o, ok := doc.Object(key)
	if !ok {
		return nil, command.Hint(fmt.Errorf("subhash %s: not an object in the metadata", key),
			"it leads through objects only, such as a.b")
	}
	return o, nil
}
