package bootentry

import (
	"cmp"
	"strings"
)

// CompareVersions orders versions as systemd-boot does: negative when a is
// older than b, 0 when they are equal, positive when a is newer. It follows the
// version format specification of the UAPI group (UAPI.10).
func CompareVersions(a, b string) int {
	for {
		a, b = skipSeparators(a), skipSeparators(b)
		if r := mark(&a, &b, '~'); r != 0 {
			return r
		}
		if a == "" || b == "" {
			return cmp.Compare(len(a), len(b)) // the one with more segments is newer
		}
		for _, c := range []byte("-^.") {
			if r := mark(&a, &b, c); r != 0 {
				return r
			}
		}
		var r int
		if n, m := run(a, digit), run(b, digit); n > 0 || m > 0 {
			r = compareNumbers(a[:n], b[:m])
			a, b = a[n:], b[m:]
		} else {
			n, m := run(a, letter), run(b, letter)
			r = strings.Compare(a[:n], b[:m])
			a, b = a[n:], b[m:]
		}
		if r != 0 {
			return r
		}
	}
}

// mark compares by a sign that makes what it stands before older; where both
// begin with it, it is taken off.
func mark(a, b *string, sign byte) int {
	x, y := strings.HasPrefix(*a, string(sign)), strings.HasPrefix(*b, string(sign))
	switch {
	case x && y:
		*a, *b = (*a)[1:], (*b)[1:]
	case x:
		return -1
	case y:
		return 1
	}
	return 0
}

// compareNumbers compares runs of digits of any length; no digits at all are
// older than any number.
func compareNumbers(a, b string) int {
	if a == "" || b == "" {
		return cmp.Compare(len(a), len(b))
	}
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
}

func skipSeparators(s string) string {
	for i := range len(s) {
		if c := s[i]; digit(c) || letter(c) || strings.IndexByte("~-^.", c) >= 0 {
			return s[i:]
		}
	}
	return ""
}

// run is the length of the run at the beginning of s.
func run(s string, of func(byte) bool) int {
	n := 0
	for n < len(s) && of(s[n]) {
		n++
	}
	return n
}

func digit(c byte) bool  { return '0' <= c && c <= '9' }
func letter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }
