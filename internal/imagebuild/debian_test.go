package imagebuild

import (
	"testing"

	"goldsmith/internal/element"
)

func TestDebianSecurity(t *testing.T) {
	minimal := []*element.Element{{Name: "debian-minimal"}}
	listed := t.TempDir()
	hooksTree(t, listed, map[string]string{
		"sources.list": "deb http://archive.example/ubuntu jammy-security main\n",
		"sources.list.d/a.list": "# deb http://no.example/debian-security bookworm-security main\n" +
			"deb [ arch=amd64 signed-by=/x ] http://list.example/debian-security bookworm-security main\n",
	})
	stanzas := t.TempDir()
	hooksTree(t, stanzas, map[string]string{"sources.list.d/debian.sources": `Types: deb
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates

Types: deb
# a comment: with a colon
URIs: http://deb.example/debian-security
Suites: bookworm-security
`})
	for _, c := range []struct {
		name         string
		env          map[string]string
		elements     []*element.Element
		apt          string
		path, mirror string
	}{
		{"list", map[string]string{"DIB_RELEASE": "bookworm"}, minimal, listed, "-security", "http://list.example/debian-security"},
		{"stanza", map[string]string{}, minimal, stanzas, "-security", "http://deb.example/debian-security"},
		{"none", map[string]string{}, minimal, t.TempDir(), "-security", ""},
		{"bullseye", map[string]string{"DIB_RELEASE": "bullseye"}, minimal, listed, "", ""},
		{"other element", map[string]string{}, nil, listed, "", ""},
		{"own sources", map[string]string{"DIB_APT_SOURCES_CONF": "x"}, minimal, listed, "", ""},
		{"own path", map[string]string{"DIB_DEBIAN_SECURITY_SUBPATH": "/x"}, minimal, listed, "/x", ""},
		{"own mirror", map[string]string{"DIB_DEBIAN_SECURITY_MIRROR": "http://m"}, minimal, listed, "-security", "http://m"},
	} {
		debianSecurity(c.env, c.elements, c.apt)
		if p, m := c.env["DIB_DEBIAN_SECURITY_SUBPATH"], c.env["DIB_DEBIAN_SECURITY_MIRROR"]; p != c.path || m != c.mirror {
			t.Errorf("%s: path %q, mirror %q; want %q, %q", c.name, p, m, c.path, c.mirror)
		}
	}
}
