package metadata

import (
	"math"
	"strings"
	"unicode"
)

// maxInt bounds what Int returns.
const maxInt = math.MaxInt32

// Int reads a whole number as Python's int does: decimal digits of any script,
// single underscores between them, a sign, white space around. What is larger
// than a list can be becomes the largest 32 bit number.
func Int(text string) (n int, ok bool) {
	text = strings.TrimSpace(text)
	digits := strings.TrimPrefix(text, "-")
	negative := digits != text
	if !negative {
		digits = strings.TrimPrefix(text, "+")
	}
	after := false // a digit
	for _, r := range digits {
		if r == '_' {
			if !after {
				return 0, false
			}
			after = false
			continue
		}
		d := digit(r)
		if d < 0 {
			return 0, false
		}
		n, after = min(10*n+d, maxInt), true
	}
	if negative {
		n = -n
	}
	return n, after
}

// digit is the value of a decimal digit; -1 of anything else. Unicode has them
// in rows from zero to nine.
func digit(r rune) int {
	if r < 0x80 {
		if r < '0' || r > '9' {
			return -1
		}
		return int(r - '0')
	}
	for _, in := range unicode.Nd.R16 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return int(r-rune(in.Lo)) % 10
		}
	}
	for _, in := range unicode.Nd.R32 {
		if r >= rune(in.Lo) && r <= rune(in.Hi) {
			return int(r-rune(in.Lo)) % 10
		}
	}
	return -1
}
