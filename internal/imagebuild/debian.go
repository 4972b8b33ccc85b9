package imagebuild

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/element"
)

// debianSecurity adds what diskimage-builder's element debian-minimal needs to
// find Debian's security updates: it names the suite as Debian 10 did
// (bookworm/updates), which no longer exists, and knows an exception for
// Debian 11 alone. Since that release the suite is called NAME-security (Debian
// 11 release notes, 5.1.3). Where the build host's own apt sources have that
// suite, they say where it is. What somebody set is left alone.
func debianSecurity(env map[string]string, elements []*element.Element, apt string) {
	uses := slices.ContainsFunc(elements, func(e *element.Element) bool { return e.Name == "debian-minimal" })
	if !uses || env["DIB_APT_SOURCES_CONF"] != "" || env["DIB_DEBIAN_SECURITY_SUBPATH"] != "" {
		return
	}
	switch env["DIB_RELEASE"] {
	case "buster", "stretch", "jessie", "bullseye", "testing", "unstable", "sid":
		return
	}
	env["DIB_DEBIAN_SECURITY_SUBPATH"] = "-security"
	if env["DIB_DEBIAN_SECURITY_MIRROR"] == "" {
		if uri := securitySource(apt); uri != "" {
			env["DIB_DEBIAN_SECURITY_MIRROR"] = uri
		}
	}
}

// securitySource returns the URI of Debian's security archive in the apt
// sources below dir (sources.list(5)), or "".
func securitySource(dir string) string {
	files, _ := filepath.Glob(filepath.Join(dir, "sources.list.d", "*"))
	files = append([]string{filepath.Join(dir, "sources.list")}, files...)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		uri := ""
		switch filepath.Ext(f) {
		case ".list":
			uri = oneLineSource(string(text))
		case ".sources":
			uri = stanzaSource(string(text))
		}
		if uri != "" {
			return uri
		}
	}
	return ""
}

// oneLineSource reads "deb [options] URI suite component…".
func oneLineSource(text string) string {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		if i, j := strings.Index(line, "["), strings.Index(line, "]"); i >= 0 && j > i {
			line = line[:i] + line[j+1:]
		}
		w := strings.Fields(line)
		if len(w) >= 4 && w[0] == "deb" && isSecurity(w[1], w[2]) {
			return w[1]
		}
	}
	return ""
}

// stanzaSource reads the deb822 form, without continuation lines.
func stanzaSource(text string) string {
	for stanza := range strings.SplitSeq(text, "\n\n") {
		field := map[string][]string{}
		for line := range strings.Lines(stanza) {
			if name, value, ok := strings.Cut(line, ":"); ok && !strings.HasPrefix(line, "#") {
				field[strings.ToLower(name)] = strings.Fields(value)
			}
		}
		if !slices.Contains(field["types"], "deb") {
			continue
		}
		for _, uri := range field["uris"] {
			for _, suite := range field["suites"] {
				if isSecurity(uri, suite) {
					return uri
				}
			}
		}
	}
	return ""
}

// isSecurity tells Debian's archive from that of a derivative with the same
// kind of suite, such as Ubuntu.
func isSecurity(uri, suite string) bool {
	return strings.HasSuffix(suite, "-security") && strings.Contains(uri, "debian")
}
