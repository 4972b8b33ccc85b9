package fat

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxName is the longest long name in UTF-16 units.
const maxName = 255

// checkName tells whether a long name can hold name.
func checkName(name string) error {
	if !utf8.ValidString(name) {
		return fmt.Errorf("a name on FAT must be UTF-8")
	}
	for _, r := range name {
		if r < 0x20 || r == 0x7f || strings.ContainsRune(`"*:<>?\|`, r) {
			return fmt.Errorf("a name on FAT cannot hold %q", r)
		}
	}
	if strings.HasSuffix(name, ".") || strings.HasSuffix(name, " ") || strings.HasPrefix(name, " ") {
		return fmt.Errorf("a name on FAT cannot begin with a space or end with a space or a dot")
	}
	if n := len(utf16.Encode([]rune(name))); n > maxName {
		return fmt.Errorf("a name on FAT cannot be longer than %d characters", maxName)
	}
	return nil
}

// labelBytes is the padded form of a volume label.
func labelBytes(label string) ([11]byte, error) {
	b := [11]byte([]byte("NO NAME    "))
	if label == "" {
		return b, nil
	}
	up := strings.ToUpper(label)
	if len(up) > len(b) || strings.TrimSpace(up) != up {
		return b, fmt.Errorf("FAT label %q: at most %d characters, no space at either end", label, len(b))
	}
	for i := range len(up) {
		if !shortByte(up[i]) && up[i] != ' ' {
			return b, fmt.Errorf("FAT label %q: cannot hold %q", label, up[i])
		}
	}
	copy(b[:], up+strings.Repeat(" ", len(b)))
	return b, nil
}

// shortByte tells whether a short name can hold c.
func shortByte(c byte) bool {
	return 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("$%'-_@~`!(){}^#&", c) >= 0
}

// nameAll gives the entries of one directory their short names, and a long
// name where the short one is not the whole truth. Names that differ only in
// case are an error.
func nameAll(nodes []*node) error {
	taken := map[string]*node{} // upper-case long names, and short names in use
	for _, n := range nodes {
		if err := checkName(n.name); err != nil {
			return fmt.Errorf("%s: %w", n.entry.Path, err)
		}
		up := strings.ToUpper(n.name)
		if o := taken[up]; o != nil {
			return fmt.Errorf("%s: FAT cannot tell it from %s", n.entry.Path, o.entry.Path)
		}
		taken[up] = n
	}
	next := map[string]int{} // by basis name, the number to try next
	for _, n := range nodes {
		base, ext, exact := basis(n.name)
		if !exact {
			base = numbered(base, ext, taken, next)
			taken[join(base, ext)] = n
		}
		copy(n.short[:], base+"        ")
		copy(n.short[8:], ext+"   ")
		if !exact || n.name != join(base, ext) {
			n.long = utf16.Encode([]rune(n.name))
		}
	}
	return nil
}

// numbered finds the first basis~N that nothing in the directory uses.
func numbered(base, ext string, taken map[string]*node, next map[string]int) string {
	key := join(base, ext)
	for {
		next[key]++
		tail := "~" + strconv.Itoa(next[key])
		name := base[:min(len(base), 8-len(tail))] + tail
		if taken[join(name, ext)] == nil {
			return name
		}
	}
}

func join(base, ext string) string {
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// basis is the short form of a long name in upper case, without a numeric
// tail. It is exact when nothing but the case was changed.
func basis(name string) (base, ext string, exact bool) {
	up := strings.ToUpper(name)
	trimmed := strings.TrimLeft(up, ".")
	stem, suffix := trimmed, ""
	if i := strings.LastIndexByte(trimmed, '.'); i > 0 {
		stem, suffix = trimmed[:i], trimmed[i+1:]
	}
	base, ext = shorten(stem, 8), shorten(suffix, 3)
	if base == "" {
		base = "_"
	}
	return base, ext, join(base, ext) == up
}

// shorten keeps the first n characters that a short name can hold; others
// become "_", spaces and dots go away.
func shorten(s string, n int) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case b.Len() == n:
			return b.String()
		case r == ' ' || r == '.':
		case r < 0x80 && shortByte(byte(r)):
			b.WriteByte(byte(r))
		default:
			b.WriteByte('_')
		}
	}
	return b.String()
}
