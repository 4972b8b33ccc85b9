package apt

import (
	"fmt"
	"strings"
	"testing"
)

// world makes a universe of short descriptions: one package a line,
// "NAME VERSION; Field: value; …". Each is of priority optional and its file
// is something.
func world(t *testing.T, text string) *universe {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines("base 1; Essential: yes; Priority: required\n" + text) {
		parts := strings.Split(strings.TrimSpace(line), ";")
		name, version, _ := strings.Cut(parts[0], " ")
		fmt.Fprintf(&b, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: pool/%s.deb\nSize: 1\nSHA256: %064d\n",
			name, version, name, 0)
		for _, f := range parts[1:] {
			fmt.Fprintln(&b, strings.TrimSpace(f))
		}
		fmt.Fprintln(&b)
	}
	u, err := newUniverse([][]index{{{"test", b.String(), 500}}}, []Source{{URI: "http://m"}}, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct {
		name, world, ask, want string
	}{
		{"nothing", "a 1", "", "base"},
		{"required and apt", "r 1; Priority: required\napt 2; Depends: lib\nlib 1", "", "apt base lib* r"},
		{"chain", "a 1; Depends: b (>= 1)\nb 1; Pre-Depends: c\nc 1\nd 1", "a", "a b* base c*"},
		{"no recommendations", "a 1; Recommends: b; Suggests: c\nb 1\nc 1", "a", "a base"},
		{"first alternative", "a 1; Depends: x | y\nx 1\ny 1", "a", "a base x*"},
		{"the one that is there", "a 1; Depends: x | y\nx 1\ny 1", "y a", "a base y"},
		{"the one that works", "a 1; Depends: x | y\nx 1; Depends: gone\ny 1", "a", "a base y*"},
		{"the one that is new enough", "a 1; Depends: x (>= 2) | y\nx 1\ny 1", "a", "a base y*"},
		{"newest version", "a 1; Depends: gone\na 2", "a", "a=2 base"},
		{"a version", "a 1\na 2", "a=1", "a base"},
		{"provided", "a 1; Depends: v\nx 1; Provides: v", "a", "a base x*"},
		{"real before virtual", "a 1; Depends: v\nx 1; Provides: v\nv 1", "a", "a base v*"},
		{"virtual with version", "a 1; Depends: v (>= 2)\nx 1; Provides: v\ny 1; Provides: v (= 2)",
			"a", "a base y*"},
		{"provider of a higher priority", "a 1; Depends: v\nx 1; Provides: v; Priority: important\n" +
			"y 1; Provides: v; Priority: optional", "a", "a base x*"},
		{"last of equal providers", "a 1; Depends: v\nx 1; Provides: v\ny 1; Provides: v", "a", "a base y*"},
		{"asked by a provided name", "x 1; Provides: v", "v", "base x"},
		{"conflict with an alternative", "a 1; Depends: x | y\nb 1; Conflicts: x\nx 1\ny 1", "a b", "a b base y*"},
		{"what is not needed any more", "a 1; Depends: x | y\nb 1; Conflicts: x\nx 1; Depends: z\nz 1\ny 1",
			"a b", "a b base y*"},
		{"no conflict with itself", "x 1; Provides: v; Conflicts: v", "x", "base x"},
		{"cycle", "a 1; Depends: b\nb 1; Depends: a", "a", "a b* base"},
		{"any architecture", "a 1; Depends: p:any\np 1; Multi-Arch: allowed", "a", "a base p*"},
	} {
		plan, err := world(t, tt.world).plan(Options{Suite: "s", Arch: "amd64", Packages: strings.Fields(tt.ask)})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, k := range plan.Packages {
			s := k.Name
			if k.Version != "1" && !strings.HasPrefix(tt.name, "required") {
				s += "=" + k.Version
			}
			if k.Auto {
				s += "*"
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %s; want %s", tt.name, strings.Join(got, " "), tt.want)
		}
	}
}

func TestPlanRefused(t *testing.T) {
	for _, tt := range []struct{ world, ask, want string }{
		{"a 1", "b", "package b: not in s"},
		{"a 1", "a=2", "package a: version 2 is not in s"},
		{"x 1; Provides: v\ny 1; Provides: v", "v", "package v: several packages provide it"},
		{"a 1; Depends: b", "a", "package a depends on b, which no source has"},
		{"a 1; Depends: b (>= 2)\nb 1", "a", "package a depends on b (>= 2), of which the sources have 1"},
		{"a 1; Depends: b\nb 1; Depends: c", "a", "package b (for a) depends on c, which no source has"},
		{"a 1; Conflicts: b\nb 1", "a b", "package a cannot be installed with b: it excludes b"},
		{"a 1; Depends: b\nb 1; Breaks: base", "a", "package b (for a) cannot be installed with base: it excludes base"},
		{"a 1; Depends: b | d\nb 1; Depends: c\nd 1; Depends: e", "a",
			"package a depends on b | d: package b (for a) depends on c, which no source has"},
		{"a 1; Depends: b (", "a", `package a: Depends: "b (": not a package relation`},
	} {
		plan, err := world(t, tt.world).plan(Options{Suite: "s", Arch: "amd64", Packages: strings.Fields(tt.ask)})
		if err == nil || err.Error() != tt.want {
			t.Errorf("%q of %q: %v, %v; want %s", tt.ask, tt.world, plan, err, tt.want)
		}
	}
}

func TestBadIndex(t *testing.T) {
	good := "Package: a\nVersion: 1\nArchitecture: amd64\nFilename: a.deb\nSize: 1\nSHA256: " +
		strings.Repeat("0", 64) + "\n"
	if _, err := parseVersion(good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{"Package: a", "Package: ../a", "bad name"},
		{"Package: a", "Package:", "incomplete"},
		{"a.deb", "../../etc/passwd", "is not in the archive"},
		{"a.deb", "/etc/passwd", "is not in the archive"},
		{"Size: 1", "Size: -1", "bad size"},
		{strings.Repeat("0", 64), "../x", "is not a check sum"},
		{"Version: 1", "Version", "is not a field"},
	} {
		v, err := parseVersion(strings.Replace(good, tt.old, tt.new, 1))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %v; want %s", tt.new, v, err, tt.want)
		}
	}
}

func FuzzIndex(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: all\nDepends: b,\n c\nFilename: a\nSize: 1\n\n\nPackage: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		_ = parseIndex(text, "amd64", func(v *version) error { return nil })
	})
}
