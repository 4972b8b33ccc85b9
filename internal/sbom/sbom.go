// Package sbom writes what an image is made of as a software bill of
// materials: SPDX 2.3 (https://spdx.github.io/spdx-spec/v2.3/) and CycloneDX
// 1.6 (https://cyclonedx.org/docs/1.6/json/), both as JSON.
//
// The parts are Debian packages, named by package URLs
// (https://github.com/package-url/purl-spec), and the elements. [Read] takes
// from a root file system what dpkg knows and what debian/copyright says of
// licences; what hooks installed without dpkg is not in a bill, but in the file
// manifest (internal/filelist).
//
// The same image always gives the same bytes: times are the caller's, and
// identifiers are digests of the content. A bill says nothing of the files that
// it comes with, so that it can be inside of them.
package sbom

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"goldsmith/internal/dpkg"
)

// Image is what a bill is about. Name is required.
type Image struct {
	Name     string
	Version  string
	Release  string // the distribution's code name, "bookworm"
	Arch     string // Debian's name
	OS       OS
	Elements []string // sorted
	Packages []Package
	// Time is when the bill says that it was made: the image's epoch. Zero
	// becomes 1970.
	Time time.Time
}

// OS is the operating system, from os-release(5).
type OS struct {
	ID      string // empty means "debian"
	Version string // VERSION_ID, "12"; may be empty
}

// Package is a Debian package. All but its name, version and architecture may
// be empty.
type Package struct {
	dpkg.Package
	Source        string // source package; empty means the same name
	SourceVersion string // empty means the same version
	Maintainer    string // "Name <address>"
	Homepage      string
	Summary       string
	SHA256        string // of the .deb, in hexadecimal
	// License is an SPDX expression of all licences that the copyright file
	// names, where that can be read by machines (DEP 5).
	License   string
	Copyright string // the notices in it, one a line
	// Refs are the licences that License names and SPDX has not listed, by
	// their "LicenseRef-" names.
	Refs map[string]Ref
}

// Ref is a licence that is not on SPDX's list.
type Ref struct {
	Name string // what the copyright file calls it
	Text string
}

func (p Package) source() string {
	if p.Source == "" {
		return p.Name
	}
	return p.Source
}

func (p Package) sourceVersion() string {
	if p.SourceVersion == "" {
		return p.Version
	}
	return p.SourceVersion
}

// PURL is the package URL, such as
// pkg:deb/debian/curl@7.88.1-10?arch=amd64&distro=debian-12.
func (m Image) PURL(p Package) string { return m.purl(p.Name, p.Version, p.Arch) }

func (m Image) purl(name, version, arch string) string {
	s := "pkg:deb/" + escape(m.id()) + "/" + escape(strings.ToLower(name)) + "@" + escape(version)
	s += "?arch=" + escape(arch)
	if d := m.distro(); d != "" {
		s += "&distro=" + escape(d)
	}
	return s
}

func (m Image) id() string {
	if m.OS.ID == "" {
		return "debian"
	}
	return m.OS.ID
}

// distro is the qualifier by which scanners know the distribution.
func (m Image) distro() string {
	if m.OS.Version == "" {
		return m.Release
	}
	return m.id() + "-" + m.OS.Version
}

// escape is the percent-encoding of package URLs: all but letters, digits and
// ".-_~:".
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte(".-_~:", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// uuid is the image's name-based identifier (RFC 9562, version 5) for one kind
// of bill: a digest of everything in it.
func (m Image) uuid(kind string) (string, error) {
	m.Time = m.Time.UTC()
	content, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	h := sha1.New()
	h.Write(namespaceURL)
	fmt.Fprintf(h, "goldsmith %s ", kind)
	h.Write(content)
	u := h.Sum(nil)[:16]
	u[6], u[8] = u[6]&0x0f|0x50, u[8]&0x3f|0x80
	x := hex.EncodeToString(u)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:], nil
}

// namespaceURL is RFC 9562's name space of URLs.
var namespaceURL = []byte("\x6b\xa7\xb8\x11\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8")

// timestamp is the time as both formats have it.
func (m Image) timestamp() string {
	if m.Time.IsZero() {
		return "1970-01-01T00:00:00Z"
	}
	return m.Time.UTC().Format("2006-01-02T15:04:05Z")
}
