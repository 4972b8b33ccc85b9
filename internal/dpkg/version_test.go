package dpkg

import (
	"os/exec"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a, op, b string
	}{
		{"1.0", "=", "1.0"}, {"1.0", "=", "1.00"}, {"0:1", "=", "1"}, {"1-0", "=", "1"},
		{"1.0~rc1", "<", "1.0"}, {"1.0~~", "<", "1.0~"}, {"1.0", "<", "1.0a"}, {"1.0a", "<", "1.0+"},
		{"1:0.1", ">", "9.9"}, {"1.10", ">", "1.9"}, {"1.0-1", "<", "1.0-1+b1"}, {"2.36-9+deb12u14", ">", "2.36-9+deb12u9"},
		{"99999999999999999999", "<", "100000000000000000000"}, {"", "=", "0"}, {"1.a", ">", "1.1"},
	} {
		got := "="
		if c := CompareVersions(tt.a, tt.b); c < 0 {
			got = "<"
		} else if c > 0 {
			got = ">"
		}
		if got != tt.op {
			t.Errorf("%q %s %q; want %s", tt.a, got, tt.b, tt.op)
		}
	}
}

// The order is that of the real dpkg.
func TestCompareVersionsDpkg(t *testing.T) {
	testenv.Need(t, "dpkg")
	version := rapid.StringMatching(`([0-9]{1,2}:)?[0-9][0-9a-cA-C.+~]{0,6}(-[0-9a-b+.~]{1,4})?`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := version.Draw(t, "a"), version.Draw(t, "b")
		c := CompareVersions(a, b)
		op := map[bool]string{true: "lt", false: "gt"}[c < 0]
		if c == 0 {
			op = "eq"
		}
		if err := exec.Command("dpkg", "--compare-versions", a, op, b).Run(); err != nil {
			t.Fatalf("dpkg does not agree that %q %s %q", a, op, b)
		}
		if c2 := CompareVersions(b, a); (c < 0) != (c2 > 0) {
			t.Fatalf("%q against %q: %d and %d", a, b, c, c2)
		}
	})
}

func TestParseRelations(t *testing.T) {
	for field, want := range map[string]string{
		"":                                   "",
		"a":                                  "a",
		"a, b":                               "a;b",
		"a (>= 1:2~) | b:any,\n c (<<2)":     "a (>= 1:2~) | b:any;c (<< 2)",
		"old (< 1), older (> 1), exact (1)":  "old (<= 1);older (>= 1);exact (= 1)",
		"python3:any, libc6 (= 2.36-9) , , ": "python3:any;libc6 (= 2.36-9)",
	} {
		got, err := ParseRelations(field)
		var s []string
		for _, a := range got {
			s = append(s, a.String())
		}
		if strings.Join(s, ";") != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", field, strings.Join(s, ";"), err, want)
		}
	}
	for _, field := range []string{"a | ", "a (>= 1", "a (", "a b", "a (>< 1)", "a (>=)", "a (1) x", "(= 1)"} {
		if got, err := ParseRelations(field); err == nil {
			t.Errorf("%q: %v; want an error", field, got)
		}
	}
}

func TestAllows(t *testing.T) {
	for rel, want := range map[string]string{
		"p": "123", "p (<< 2)": "1", "p (<= 2)": "12", "p (= 2)": "2", "p (>= 2)": "23", "p (>> 2)": "3",
	} {
		r, err := ParseRelations(rel)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, v := range []string{"1", "2", "3"} {
			if r[0][0].Allows(v) {
				got += v
			}
		}
		if got != want {
			t.Errorf("%s allows %q; want %q", rel, got, want)
		}
	}
}

func FuzzRelations(f *testing.F) {
	f.Add("a (>= 1) | b, c:any")
	f.Fuzz(func(t *testing.T, field string) {
		got, err := ParseRelations(field)
		if err != nil {
			return
		}
		for _, a := range got {
			if again, err := ParseRelations(a.String()); err != nil || len(again) != 1 || again[0].String() != a.String() {
				t.Errorf("%q: %q is read as %v, %v", field, a, again, err)
			}
		}
	})
}
