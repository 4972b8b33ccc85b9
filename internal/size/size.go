// Package size reads and prints sizes in bytes, with their units, as people write
// them in our files.
//
// diskimage-builder's block device configurations have sizes of a form of their
// own, which internal/blockdevice reads.
package size

import (
	"fmt"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Bytes is a size in bytes. In a file it may have one of the units k, M, G and
// T, which are powers of 1,000, or Ki, Mi, Gi and Ti, which are powers of 1,024,
// each with or without a B after it.
type Bytes int64

var units = map[string]int64{"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}

// UnmarshalYAML implements yaml.Unmarshaler.
func (b *Bytes) UnmarshalYAML(n *yaml.Node) error {
	size, err := Parse(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*b = size
	return nil
}

// Parse reads a size with its unit.
func Parse(s string) (Bytes, error) {
	number := strings.TrimRight(s, "kKMGTiB")
	unit, ok := units[strings.TrimSuffix(strings.TrimPrefix(s, number), "B")]
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("%q is not a size such as 100G or 512Mi", s)
	}
	return Bytes(n * unit), nil
}

// String gives the size with a unit that leaves it whole numbers.
func (b Bytes) String() string {
	for _, u := range []string{"Ti", "Gi", "Mi", "Ki"} {
		if n := units[u]; b != 0 && int64(b)%n == 0 {
			return fmt.Sprintf("%d%sB", int64(b)/n, u)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}
