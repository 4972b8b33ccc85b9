package testenv

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRow(t *testing.T) {
	for _, c := range []struct {
		row  Row
		want string
	}{
		{Row{Matter: "m", Equal: 999}, "| m | 999 | 999 |  | none |"},
		{Row{Matter: "m", Equal: 1000, Refused: 2}, "| m | 1,002 | 1,000 | 2 | none |"},
		{Row{Matter: "m", Equal: 1234567, Different: []Difference{{0, "x"}, {2, "y"}, {1, "z"}}, Note: "More"},
			"| m | 1,234,570 | 1,234,567 |  | 2: y; 1: z. More |"},
	} {
		if got := c.row.String(); got != c.want {
			t.Errorf("%+v = %q; want %q", c.row, got, c.want)
		}
	}
}

// Rows of several tests stand in one file, a line each.
func TestProofFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rows")
	t.Setenv("GOLDSMITH_PROOF", file)
	for range 2 {
		Proof(t, Row{Matter: Matters()[0], Equal: 1, Sample: true})
	}
	const line = `{"Matter":"resolution, all elements: single, with every operating system, random sets",` +
		`"Equal":1,"Refused":0,"Different":null,"Note":""}` + "\n"
	if b, err := os.ReadFile(file); err != nil || string(b) != line+line {
		t.Errorf("%s, %v; want %s twice", b, err, line)
	}
}

func TestMatters(t *testing.T) {
	sorted := slices.Sorted(slices.Values(Matters()))
	if len(slices.Compact(sorted)) != len(Matters()) {
		t.Error("a matter is there twice")
	}
}
