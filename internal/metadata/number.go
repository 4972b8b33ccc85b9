package metadata

import (
	"math"
	"strconv"
	"strings"
)

// Number is a number in the spelling that Python's json module gives it:
// integers exact whatever their size, other numbers as the shortest text that
// reads back as the same double, with a fraction or an exponent. NaN and
// Infinity are numbers too.
type Number string

// number makes a Number of a JSON number literal.
func number(literal string) Number {
	if !strings.ContainsAny(literal, ".eE") {
		if literal == "-0" {
			return "0"
		}
		return Number(literal)
	}
	f, _ := strconv.ParseFloat(literal, 64) // out of range is ±Inf, as in Python
	return Float(f)
}

// Float makes a Number of a double.
func Float(f float64) Number {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	// Python's repr changes to an exponent below 1e-4 and from 1e16 on.
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return Number(strconv.FormatFloat(f, 'e', -1, 64))
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return Number(s)
}

// String is what Python's str prints, which differs from JSON for NaN and
// the infinities.
func (n Number) String() string {
	switch n {
	case "NaN":
		return "nan"
	case "Infinity":
		return "inf"
	case "-Infinity":
		return "-inf"
	}
	return string(n)
}

// Falsy says that the number is zero.
func (n Number) Falsy() bool { return n == "0" || n == "0.0" || n == "-0.0" }
