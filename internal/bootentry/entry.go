// Package bootentry names the bootable versions of an image as the two boot
// loaders see them, orders versions, and says which one a boot loader starts. It
// is pure: it reads and writes no files.
//
// A version has the ID NAME_VERSION. On the EFI partition it is
//
//	EFI/Linux/ID[+LEFT[-DONE]].efi    for systemd-boot, which keeps its boot
//	                                  counter in the name: LEFT tries are left,
//	                                  DONE were made
//	bios/ID/{linux,initrd,boot.cfg}   for GRUB, which counts in grub/grubenv
//
// An entry without a counter is good: it was proved, or it is the first. An
// entry whose LEFT is 0 is bad, and booted only when nothing else is there.
//
// Formats: https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT, the GRUB manual's
// "The GRUB environment block", and
// https://uapi-group.org/specifications/specs/version_format_specification/.
package bootentry

import (
	"regexp"
	"strconv"
	"strings"
)

// Dir is where unified kernel images lie on the EFI partition.
const Dir = "EFI/Linux"

// Tries is how often a new version may be started before it must be good.
const Tries = 3

// Entry is a unified kernel image as its file name tells of it.
type Entry struct {
	ID      string // NAME_VERSION
	Counted bool   // it has a boot counter: not yet known to be good
	Left    int    // starts that are left; 0 when not Counted
	Done    int    // starts that were made; 0 when not Counted
}

// ID is the entry ID of an image's version.
func ID(name, version string) string { return name + "_" + version }

// What image names and versions may hold (docs/formats.md): nothing that could
// be a path or an option. A name has no underscore: that ends it in an ID. There
// is no "+": it starts the counter.
const (
	nameForm    = `[A-Za-z0-9][A-Za-z0-9.-]{0,63}`
	versionForm = `[A-Za-z0-9][A-Za-z0-9._~-]{0,63}`
)

var (
	onlyName    = regexp.MustCompile(`^` + nameForm + `$`)
	onlyVersion = regexp.MustCompile(`^` + versionForm + `$`)
	idForm      = regexp.MustCompile(`^` + nameForm + `_` + versionForm + `$`)
)

// IsName tells whether an image may be called that.
func IsName(s string) bool { return onlyName.MatchString(s) }

// IsVersion tells whether a version may be called that.
func IsVersion(s string) bool { return onlyVersion.MatchString(s) }

// SplitID takes an ID apart.
func SplitID(id string) (name, version string, ok bool) {
	if !idForm.MatchString(id) {
		return "", "", false
	}
	return strings.Cut(id, "_")
}

// ParseFile reads the name of a file in Dir. Names that File would not write
// are not ours.
func ParseFile(name string) (Entry, bool) {
	stem, ok := strings.CutSuffix(name, ".efi")
	if !ok {
		return Entry{}, false
	}
	id, counter, counted := strings.Cut(stem, "+")
	e := Entry{ID: id, Counted: counted}
	if counted {
		left, done, _ := strings.Cut(counter, "-")
		e.Left, e.Done = count(left), count(done)
	}
	if !idForm.MatchString(id) || e.File() != name {
		return Entry{}, false
	}
	return e, true
}

// count reads a counter; what is none becomes -1, which no name holds.
func count(s string) int {
	if s == "" {
		return 0
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// File is the name in Dir.
func (e Entry) File() string {
	name := e.ID
	if e.Counted {
		name += "+" + strconv.Itoa(e.Left)
		if e.Done != 0 {
			name += "-" + strconv.Itoa(e.Done)
		}
	}
	return name + ".efi"
}
