package size

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0", "100G", "512Mi", "1TB", "9999999999999T", "-1", "", "B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := Parse(s)
		if err != nil {
			return
		}
		if again, err := Parse(b.String()); err != nil || again != b || b < 0 {
			t.Errorf("%q is %d, written %q, read %d (%v)", s, b, b.String(), again, err)
		}
	})
}
