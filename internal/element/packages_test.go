package element

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestPackages(t *testing.T) {
	for in, want := range map[string]string{
		"bb:\naa:\n":                             "aa bb",
		"aa: {arch: amd64}\nbb: {arch: arm64}\n": "aa",
		"aa: {not-arch: 'arm64, amd64'}\nbb:\n":  "bb",
		"aa: [{arch: arm64}, {arch: amd64}]\n":   "aa",
		"aa: &x {arch: arm64}\nab: *x\nb+.-1:\n": "b+.-1",
		"aa:\n  phase: install.d\n":              `!f:2: aa: option "phase" is not supported yet`,
		"aa: text\n":                             "!f:1: aa: options must be a mapping",
		"ok:\n'a,b':\n":                          `!f:2: "a,b": not a package name`,
		"\"aa\\nbb\":\n":                         `!f:1: "aa\nbb": not a package name`,
		"-a:\n":                                  `!f:1: "-a": not a package name`,
		"Aa:\n":                                  `!f:1: "Aa": not a package name`,
		"'':\n":                                  `!f:1: "": not a package name`,
	} {
		els := twoElements(t, map[string]string{"package-installs.yaml": in}, map[string]string{"README": ""})
		pkgs, err := Packages(els, "amd64")
		got := strings.Join(pkgs, " ")
		if err != nil {
			got = "!" + strings.ReplaceAll(err.Error(), filepath.Join(els[0].Dir, "package-installs.yaml"), "f")
		}
		if got != want {
			t.Errorf("Packages(%q) = %q; want %q", in, got, want)
		}
	}
}
