package metadata

import (
	"fmt"
	"strings"
	"unicode/utf16"
)

// JSON is the value as Python's json.dumps writes it: ", " and ": " between
// things, keys in their order, everything beyond ASCII escaped.
func JSON(v any) string {
	var b strings.Builder
	encode(&b, v, ", ", "", "")
	return b.String()
}

// Indented is the value over several lines, indented by one blank a level,
// without a line feed at the end.
func Indented(v any) string {
	var b strings.Builder
	encode(&b, v, ",", "\n", " ")
	return b.String()
}

// encode appends v. between follows each item but the last; newline, when it
// is not empty, starts a line for each item.
func encode(b *strings.Builder, v any, between, newline, step string) {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		fmt.Fprintf(b, "%t", v)
	case Number:
		b.WriteString(string(v))
	case string:
		quote(b, v)
	case []any:
		items(b, '[', ']', between, newline, step, len(v), func(i int, inner string) {
			encode(b, v[i], between, inner, step)
		})
	case *Object:
		items(b, '{', '}', between, newline, step, v.Len(), func(i int, inner string) {
			quote(b, v.keys[i])
			b.WriteString(": ")
			encode(b, v.values[v.keys[i]], between, inner, step)
		})
	default:
		quote(b, fmt.Sprint(v)) // not a value of this package; show it at least
	}
}

func items(b *strings.Builder, open, end byte, between, newline, step string, n int, item func(i int, inner string)) {
	b.WriteByte(open)
	inner := newline
	if newline != "" {
		inner += step
	}
	for i := range n {
		if i > 0 {
			b.WriteString(between)
		}
		b.WriteString(inner)
		item(i, inner)
	}
	if n > 0 {
		b.WriteString(newline)
	}
	b.WriteByte(end)
}

func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\b':
			b.WriteString(`\b`)
		case r == '\f':
			b.WriteString(`\f`)
		case r >= ' ' && r <= '~':
			b.WriteRune(r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(b, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
}
