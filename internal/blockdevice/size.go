package blockdevice

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// units are what may follow a number. T, G, M and K are decimal, which is the
// original's doing.
var units = map[string]float64{
	"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10,
	"TB": 1e12, "GB": 1e9, "MB": 1e6, "KB": 1e3,
	"T": 1e12, "G": 1e9, "M": 1e6, "K": 1e3,
	"B": 1, "": 1,
}

var sizeForm = regexp.MustCompile(`^([0-9.]*) ?([a-zA-Z0-9_]*)$`)

// maxSize bounds a size in bytes, so that sums of a few cannot overflow.
const maxSize = 1 << 60

// parseSize reads a size in bytes: a number, one blank or none, a unit or
// none. Without a number it is one of the unit.
func parseSize(s string) (int64, error) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	factor, ok := units[m[2]]
	if !ok {
		return 0, fmt.Errorf("%q is not a size: unit %q is not known", s, m[2])
	}
	n := 1.0
	if m[1] != "" {
		var err error
		if n, err = strconv.ParseFloat(m[1], 64); err != nil {
			return 0, fmt.Errorf("%q is not a size: %q is not a number", s, m[1])
		}
	}
	if n *= factor; n >= maxSize {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(n), nil
}

// share is the size of a partition: bytes, or so many per cent of what is
// free.
type share struct {
	bytes    int64
	percent  float64
	relative bool
}

func parseShare(s string) (share, error) {
	number, relative := strings.CutSuffix(s, "%")
	if !relative {
		n, err := parseSize(s)
		return share{bytes: n}, err
	}
	f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 100 {
		return share{}, fmt.Errorf("%q is not a part of a disk: want 0%% to 100%%", s)
	}
	return share{percent: f, relative: true}, nil
}

// of is the size in bytes when free bytes are left.
func (s share) of(free int64) int64 {
	if s.relative {
		return int64(float64(free) * s.percent / 100)
	}
	return s.bytes
}
