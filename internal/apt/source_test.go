package apt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseSources(t *testing.T) {
	for line, want := range map[string]string{
		"http://m/debian":                      "deb http://m/debian bookworm main",
		"http://m/debian/":                     "deb http://m/debian bookworm main",
		"file:///srv/mirror":                   "deb file:///srv/mirror bookworm main",
		"deb http://m/d bookworm main contrib": "deb http://m/d bookworm main contrib",
		"deb [trusted=yes] http://m/d ./":      "deb [trusted=yes] http://m/d ./",
		"deb [ signed-by=/k arch=amd64 ] https://m/d x/up main # why": "deb [arch=amd64 signed-by=/k] https://m/d x/up main",
		"deb [arch=arm64] http://m/d bookworm main":                   "",
		"deb-src http://m/d bookworm main":                            "",
		"# nothing":                                                   "",
		"":                                                            "",
	} {
		got, err := ParseSources([]string{line}, "bookworm", "amd64")
		s := ""
		for _, x := range got {
			s += x.String()
		}
		if s != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", line, s, err, want)
		}
	}
	for line, want := range map[string]string{
		"ftp://m/debian":                            `scheme "ftp" is not supported`,
		"http:///":                                  "no host",
		"bookworm main":                             "neither a URI nor",
		"deb http://m/d":                            "no suite",
		"deb http://m/d bookworm":                   "a suite needs components",
		"deb http://m/d ./ main":                    "a suite needs components",
		"deb http://m/d ../../x main":               "leaves the archive",
		"deb http://m/d bookworm ../main":           "leaves the archive",
		"deb [trusted=yes http://m/d bookworm main": "[ without ]",
		"deb [signed-by=k.gpg] http://m/d b main":   "not the absolute path",
		"deb [colour=red] http://m/d b main":        "option colour is not known",
		"deb [pdiffs=no] http://m/d b main":         "option pdiffs is not supported",
	} {
		got, err := ParseSources([]string{line}, "bookworm", "amd64")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "package source") {
			t.Errorf("%q: %v, %v; want %s", line, got, err, want)
		}
	}
}

func TestHostSources(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/os-release": "ID=debian\nVERSION_CODENAME=bookworm\n",
		"etc/apt/sources.list": "# deb http://old bookworm main\n" +
			"deb [signed-by=/k] http://m/debian bookworm main contrib # x\n" +
			"deb http://other/apt stable main\n",
		"etc/apt/sources.list.d/debian.sources": "Types: deb\n# URIs: http://no\nURIs: http://m/debian http://m/debian\n" +
			"Suites: bookworm bookworm-updates bookworm-backports\nComponents: main non-free\n\n" +
			"Types: deb\nURIs: http://m/security\nSuites: bookworm-security\nComponents: main\n\n" +
			"Types: deb-src\nURIs: http://m/src\nSuites: bookworm\nComponents: main\n\n" +
			"Enabled: no\nTypes: deb\nURIs: http://m/off\nSuites: bookworm\nComponents: main\n",
		"etc/apt/sources.list.d/x.list.save": "deb http://saved bookworm main\n",
	} {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for suite, want := range map[string]string{
		"bookworm": "deb http://m/debian bookworm main,deb http://m/debian bookworm-updates main," +
			"deb http://m/security bookworm-security main",
		"trixie": "deb http://m/debian trixie main,deb http://m/debian trixie-updates main," +
			"deb http://m/security trixie-security main",
		"sid": "deb http://m/debian sid main",
	} {
		got, err := HostSources(root, suite)
		var s []string
		for _, x := range got {
			s = append(s, x.String())
		}
		if strings.Join(s, ",") != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", suite, strings.Join(s, ","), err, want)
		}
	}
	if got, err := HostSources(t.TempDir(), "bookworm"); err == nil {
		t.Errorf("no host: %v", got)
	}
}
