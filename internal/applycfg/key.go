package applycfg

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// types are the value types that --type knows, as the original defines them;
// a final line feed is allowed, which is what Python's "$" does.
var types = map[string]*regexp.Regexp{
	"int":        whole(`[0-9]+`),
	"default":    whole(`[A-Za-z0-9_]*`),
	"netaddress": whole(`[A-Za-z0-9/.:-]*`),
	"netdevice":  whole(`[A-Za-z0-9/.:-]*`),
	"dsn": whole(`[a-zA-Z0-9]+://([a-zA-Z0-9+_-]+(:[^@]+)?)?(@?[a-zA-Z0-9/_.-]+)?` +
		`(/[a-zA-Z0-9_-]+)?(\?[a-zA-Z0-9=_-]+)?`),
	"swiftdevices": whole(`(r\p{Nd}+z\p{Nd}+-[A-Za-z0-9.-_]+:%PORT%/[^,]+,?)+`),
	"username":     whole(`[A-Za-z0-9_-]+`),
	"raw":          regexp.MustCompile(``),
}

func whole(pattern string) *regexp.Regexp {
	return regexp.MustCompile(`\A(?:` + pattern + `)\n?\z`)
}

// Key returns the text of one value: strings as they are, numbers as Python
// prints them, everything else as JSON. The type guards a script that puts
// the value on a command line. ok is false when the key is not there.
func Key(doc *metadata.Object, key, typeName string) (text string, ok bool, err error) {
	re, known := types[typeName]
	if !known {
		return "", false, command.Usage(fmt.Sprintf("no such type: %q", typeName), "the types are "+strings.Join(slices.Sorted(maps.Keys(types)), ", "))
	}
	v, ok := metadata.Lookup(doc, key)
	if !ok {
		return "", false, nil
	}
	switch v := v.(type) {
	case string:
		text = v
	case metadata.Number:
		text = v.String()
	default:
		text = metadata.JSON(v)
	}
	if !re.MatchString(text) {
		return "", true, command.Hint(fmt.Errorf("key %s: its value is not of type %s", key, typeName), "--type raw takes anything")
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
		return nil, command.Hint(fmt.Errorf("subhash %s: not an object in the metadata", key), "it leads through objects only, such as a.b")
	}
	return o, nil
}
