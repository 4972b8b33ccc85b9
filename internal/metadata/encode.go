package metadata

import (
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// JSON is the value as Python's json.dumps writes it: ", " and ": " between
// things, keys in their order, everything beyond ASCII escaped.
func JSON(v any) string { return string(encode(nil, v, ", ", "", "")) }

// Indented is the value over several lines, indented by one blank a level,
// without a line feed at the end.
func Indented(v any) string { return string(encode(nil, v, ",", "\n", " ")) }

// encode appends v. between follows each item but the last; newline, when it
// is not empty, starts a line for each item.
func encode(b []byte, v any, between, newline, step string) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case bool:
		if v {
			return append(b, "true"...)
		}
		return append(b, "false"...)
	case Number:
		return append(b, v...)
	case string:
		return quote(b, v)
	case []any:
		return items(b, '[', ']', between, newline, step, len(v), func(b []byte, i int, inner string) []byte {
			return encode(b, v[i], between, inner, step)
		})
	case *Object:
		return items(b, '{', '}', between, newline, step, v.Len(), func(b []byte, i int, inner string) []byte {
			b = append(quote(b, v.members[i].key), ": "...)
			return encode(b, v.members[i].value, between, inner, step)
		})
	}
	return quote(b, fmt.Sprint(v)) // not a value of this package; show it at least
}

func items(b []byte, open, end byte, between, newline, step string, n int,
	item func(b []byte, i int, inner string) []byte) []byte {
	b = append(b, open)
	inner := newline
	if newline != "" {
		inner += step
	}
	for i := range n {
		if i > 0 {
			b = append(b, between...)
		}
		b = item(append(b, inner...), i, inner)
	}
	if n > 0 {
		b = append(b, newline...)
	}
	return append(b, end)
}

func quote(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		plain := i
		for i < len(s) && s[i] >= ' ' && s[i] <= '~' && s[i] != '"' && s[i] != '\\' {
			i++
		}
		if b = append(b, s[plain:i]...); i == len(s) {
			break
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if half, ok := surrogate(s[i:]); ok {
			r, n = half, 3
		}
		b = escape(b, r)
		i += n
	}
	return append(b, '"')
}

func escape(b []byte, r rune) []byte {
	if i := strings.IndexRune("\"\\\b\f\n\r\t", r); i >= 0 {
		return append(b, '\\', `"\bfnrt`[i])
	}
	if r > 0xffff {
		high, low := utf16.EncodeRune(r)
		return fmt.Appendf(b, `\u%04x\u%04x`, high, low)
	}
	return fmt.Appendf(b, `\u%04x`, r)
}

// surrogate reads half a surrogate pair, which is not UTF-8: see Parse.
func surrogate(s string) (rune, bool) {
	if len(s) < 3 || s[0] != 0xed || s[1] < 0xa0 {
		return 0, false
	}
	return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), true
}
