package yaml11

import (
	"encoding/base64"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What plain scalars mean, as in PyYAML's resolver.
var (
	boolForm  = compileLater(`^(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)$`)
	intForm   = compileLater(`^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$`)
	floatForm = compileLater(`^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$`)
	dateForm  = compileLater(`^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$`)
	nullForm  = compileLater(`^(?:~|null|Null|NULL|)$`)
)

// compileLater compiles a regular expression when it is first used: programs
// that read no YAML start sooner.
func compileLater(text string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(text) })
}

// resolve is the kind of a plain scalar.
func resolve(s string) Kind {
	switch {
	case nullForm().MatchString(s):
		return Null
	case boolForm().MatchString(s):
		return Bool
	case intForm().MatchString(s):
		return Int
	case floatForm().MatchString(s):
		return Float
	case dateForm().MatchString(s):
		return Date
	}
	return Text
}

var tagKinds = map[string]Kind{
	"!!null": Null, "!!bool": Bool, "!!int": Int, "!!float": Float,
	"!!str": Text, "!!timestamp": Date, "!!binary": Binary,
}

// quoteIt is the remedy when text looks like something else.
const quoteIt = "put it in quotes if it is meant as text"

// scalar makes the node of a scalar of a known kind.
func scalar(kind Kind, s string, line int) (*Node, error) {
	n := &Node{Kind: kind, Line: line, Text: s, size: 1}
	ok := true
	switch kind {
	case Bool:
		ok = boolForm().MatchString(s)
		switch strings.ToLower(s) {
		case "yes", "true", "on":
			n.Bool = true
		}
	case Int:
		n.Int, ok = parseInt(s)
	case Float:
		n.Float, ok = parseFloat(s)
	case Date:
		ok = validDate(s)
	case Binary:
		b, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(s), ""))
		n.Text, ok = string(b), err == nil
	}
	if !ok {
		return nil, at(line, strconv.Quote(s)+" is not "+kind.String(), quoteIt)
	}
	return n, nil
}

// maxDigits bounds whole numbers, whose conversion takes more than linear time.
const maxDigits = 4300

func parseInt(s string) (*big.Int, bool) {
	s = strings.ReplaceAll(s, "_", "")
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimLeft(s, "+-")
	if len(s) > maxDigits {
		return nil, false
	}
	n, ok := new(big.Int), true
	switch {
	case s == "0":
	case strings.HasPrefix(s, "0b"):
		n, ok = setDigits(s[2:], 2)
	case strings.HasPrefix(s, "0x"):
		n, ok = setDigits(s[2:], 16)
	case strings.HasPrefix(s, "0"):
		n, ok = setDigits(s[1:], 8)
	case strings.Contains(s, ":"):
		for part := range strings.SplitSeq(s, ":") {
			d, good := setDigits(part, 10)
			if !good {
				return nil, false
			}
			n.Add(n.Mul(n, big.NewInt(60)), d)
		}
	default:
		n, ok = setDigits(s, 10)
	}
	if ok && neg {
		n.Neg(n)
	}
	return n, ok
}

// setDigits takes digits only: no sign, no prefix, at least one.
func setDigits(s string, base int) (*big.Int, bool) {
	if s == "" || s[0] == '-' || s[0] == '+' {
		return nil, false
	}
	return new(big.Int).SetString(s, base)
}

func parseFloat(s string) (float64, bool) {
	s = strings.ToLower(strings.ReplaceAll(s, "_", ""))
	sign := 1.0
	if strings.HasPrefix(s, "-") {
		sign = -1
	}
	if s != "" && (s[0] == '-' || s[0] == '+') {
		s = s[1:]
	}
	switch s {
	case ".inf":
		return sign * math.Inf(1), true
	case ".nan":
		return math.NaN(), true
	}
	total := 0.0
	for part := range strings.SplitSeq(s, ":") {
		if part == "" || strings.Trim(part, "0123456789.e+-") != "" {
			return 0, false // ParseFloat knows more forms
		}
		f, err := strconv.ParseFloat(part, 64)
		if err != nil && !math.IsInf(f, 0) {
			return 0, false
		}
		total = total*60 + f
	}
	return sign * total, true
}

var dateParts = compileLater(`^([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})(?:[Tt \t]+([0-9]{1,2}):([0-9]{2}):([0-9]{2}).*)?$`)

// validDate says that the calendar has the day and the clock the time.
func validDate(s string) bool {
	m := dateParts().FindStringSubmatch(s)
	if m == nil || !dateForm().MatchString(s) {
		return false
	}
	var v [6]int
	for i, text := range m[1:] {
		v[i], _ = strconv.Atoi(text) // digits, or empty for 0
	}
	t := time.Date(v[0], time.Month(v[1]), v[2], v[3], v[4], v[5], 0, time.UTC)
	return v[0] > 0 && t.Year() == v[0] && int(t.Month()) == v[1] && t.Day() == v[2] && v[4] < 60 && v[5] < 60
}

// String is a scalar as Python's str() prints it: 2 for 2, 3.1 for 3.10, True
// for yes, None for nothing; dates and binary data as they are.
func (n *Node) String() string {
	switch {
	case n == nil || n.Kind == Null:
		return "None"
	case n.Kind == Bool && n.Bool:
		return "True"
	case n.Kind == Bool:
		return "False"
	case n.Kind == Int:
		return n.Int.String()
	case n.Kind == Float:
		return pythonFloat(n.Float)
	}
	return n.Text
}

func pythonFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.ToLower(strings.TrimPrefix(strconv.FormatFloat(f, 'g', -1, 64), "+"))
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}
