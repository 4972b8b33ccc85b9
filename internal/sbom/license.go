package sbom

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// listed are Debian's short names of licences, in lower case, that mean one on
// SPDX's list. Versions of the GNU licences are put together below. Names such
// as "BSD" or "MIT-like" mean no certain text, and are none.
var listed = map[string]string{
	"expat": "MIT", "mit": "MIT", "mit/x11": "MIT", "isc": "ISC", "zlib": "Zlib", "curl": "curl", "x11": "X11",
	"apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0", "bsl-1.0": "BSL-1.0", "0bsd": "0BSD",
	"bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
	"bsd-4-clause-uc": "BSD-4-Clause-UC", "mpl-1.1": "MPL-1.1", "mpl-2.0": "MPL-2.0",
	"cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0",
	"ofl-1.1": "OFL-1.1", "openldap-2.8": "OLDAP-2.8", "openssl": "OpenSSL", "ftl": "FTL", "fsfap": "FSFAP",
	"fsful": "FSFUL", "fsfullr": "FSFULLR", "postgresql": "PostgreSQL", "libpng": "Libpng", "sleepycat": "Sleepycat",
	"artistic": "Artistic-1.0-Perl", "artistic-1.0": "Artistic-1.0-Perl", "artistic-2": "Artistic-2.0",
	"artistic-2.0": "Artistic-2.0", "unlicense": "Unlicense", "wtfpl": "WTFPL", "ntp": "NTP", "psf-2": "PSF-2.0",
}

// gnu matches the names of GNU licences: GPL-2, GPL-2+, GPLv3+, LGPL-2.1+,
// GPL-3.0-or-later, GFDL-1.3+.
var gnu = regexp.MustCompile(`^(a?gpl|lgpl|gfdl)-?v?(1|2|3|1\.[0-3]|2\.[01]|3\.0)(\+|-or-later|-only)?$`)

// spdxID returns the SPDX name of one of Debian's, or "".
func spdxID(name string) string {
	name = strings.ToLower(name)
	if id := listed[name]; id != "" {
		return id
	}
	g := gnu.FindStringSubmatch(name)
	if g == nil {
		return ""
	}
	version := g[2]
	if !strings.Contains(version, ".") {
		version += ".0"
	}
	end := "-only"
	if g[3] == "+" || g[3] == "-or-later" {
		end = "-or-later"
	}
	if id := strings.ToUpper(g[1]) + "-" + version; gnuVersions[id] {
		return id + end
	}
	return ""
}

var gnuVersions = map[string]bool{
	"GPL-1.0": true, "GPL-2.0": true, "GPL-3.0": true, "LGPL-2.0": true, "LGPL-2.1": true, "LGPL-3.0": true,
	"AGPL-1.0": true, "AGPL-3.0": true, "GFDL-1.1": true, "GFDL-1.2": true, "GFDL-1.3": true,
}

// paragraph is a paragraph of a copyright file.
type paragraph map[string]string

// parseCopyright reads a copyright file of the form that
// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/ gives.
// Of other files nothing is said: they are prose.
func parseCopyright(source, text string) (license, notices string, refs map[string]Ref) {
	paragraphs := deb822(text)
	if len(paragraphs) == 0 || paragraphs[0]["format"] == "" {
		return "", "", nil
	}
	names, lines := map[string]bool{}, map[string]bool{}
	texts := map[string]string{}
	for _, p := range paragraphs {
		name, body, _ := strings.Cut(p["license"], "\n")
		name = strings.Join(strings.Fields(name), " ")
		if body = undot(body); body != "" && texts[name] == "" {
			texts[name] = body
		}
		// A paragraph of a licence alone explains the name; it licenses nothing.
		if p["files"] == "" && p["copyright"] == "" {
			continue
		}
		if name != "" {
			names[name] = true
		}
		for line := range strings.Lines(p["copyright"]) {
			if line = strings.TrimSpace(line); line != "" && line != "." {
				lines[line] = true
			}
		}
	}
	r := refMaker{source: source, texts: texts, refs: map[string]Ref{}}
	terms := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		terms[r.expression(name)] = true
	}
	license = strings.Join(slices.Sorted(maps.Keys(terms)), " AND ")
	return license, strings.Join(slices.Sorted(maps.Keys(lines)), "\n"), r.refs
}

// deb822 splits a file into paragraphs of fields; continuation lines keep
// their breaks and lose their indentation.
func deb822(text string) []paragraph {
	var out []paragraph
	var p paragraph
	last := ""
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimRight(line, "\r\n\t ")
		switch {
		case line == "":
			if p != nil {
				out = append(out, p)
			}
			p, last = nil, ""
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if last != "" {
				p[last] += "\n" + line[1:]
			}
		default:
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				last = ""
				continue
			}
			if p == nil {
				p = paragraph{}
			}
			last = strings.ToLower(key)
			p[last] = strings.TrimSpace(value)
		}
	}
	return out
}

// undot turns the lines of a lone dot, which stand for empty ones, into those.
func undot(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.TrimSpace(l) == "." {
			lines[i] = ""
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// refMaker turns a copyright file's names into expressions.
type refMaker struct {
	source string
	texts  map[string]string
	refs   map[string]Ref
}

// operators of Debian's expressions; "and" binds tighter than "or", as in
// SPDX's. A comma, which changes that, makes the whole one name.
var orWord, andWord = regexp.MustCompile(` +(?i:or) +|\|`), regexp.MustCompile(` +(?i:and) +`)

func (r *refMaker) expression(name string) string {
	if strings.Contains(name, ",") {
		return r.term(name)
	}
	var or []string
	for _, a := range orWord.Split(strings.ReplaceAll(name, "_or_", " or "), -1) {
		var and []string
		for _, t := range andWord.Split(a, -1) {
			and = append(and, r.term(strings.TrimSpace(t)))
		}
		or = append(or, strings.Join(and, " AND "))
	}
	if len(or) > 1 {
		return "(" + strings.Join(or, " OR ") + ")"
	}
	return or[0]
}

// idString is what SPDX allows in identifiers.
var notIDString = regexp.MustCompile(`[^a-zA-Z0-9.-]+`)

func idString(s string) string { return strings.Trim(notIDString.ReplaceAllString(s, "-"), "-") }

func (r *refMaker) term(name string) string {
	if id := spdxID(name); id != "" {
		return id
	}
	ref := "LicenseRef-" + idString(r.source) + "-" + cmp.Or(idString(name[:min(len(name), 60)]), "unnamed")
	r.refs[ref] = Ref{Name: name, Text: cmp.Or(r.texts[name], "See the package's copyright file.")}
	return ref
}
