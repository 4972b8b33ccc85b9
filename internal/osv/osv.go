// Package osv reads vulnerabilities in the OSV format
// (https://ossf.github.io/osv-schema/) and says which of them concern the
// packages of a Debian release.
//
// A database is a file that somebody fetched: a zip archive of records, as
// OSV publishes one for each ecosystem, a JSON list of them, or records one
// after the other. Nothing is fetched. Records are matched by source package,
// as Debian's are, and versions compared as dpkg does.
package osv

import (
	"archive/zip"
	"bufio"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
)

// Bounds of a database.
const (
	maxRecord  = 8 << 20 // bytes of one record
	maxRecords = 2 << 20
	maxFile    = 4 << 30 // bytes of a file that is no archive
)

// DB is a database, read. It is not changed.
type DB struct {
	SHA256   string // of the file
	affected map[string][]affected
}

// affected is one record's word about one source package.
type affected struct {
	record  *record
	release string // "12"; empty: every release
	ranges  []span
	exact   []string
}

type record struct {
	ID        string   `json:"id"`
	Aliases   []string `json:"aliases"`
	Upstream  []string `json:"upstream"`
	Withdrawn string   `json:"withdrawn"`
	Summary   string   `json:"summary"`
	Affected  []struct {
		Package struct {
			Ecosystem string `json:"ecosystem"`
			Name      string `json:"name"`
		} `json:"package"`
		Ranges   []span   `json:"ranges"`
		Versions []string `json:"versions"`
	} `json:"affected"`
}

type span struct {
	Type   string  `json:"type"`
	Events []event `json:"events"`
}

// event has one of its fields.
type event struct {
	Introduced   string `json:"introduced,omitempty"`
	Fixed        string `json:"fixed,omitempty"`
	LastAffected string `json:"last_affected,omitempty"`
	Limit        string `json:"limit,omitempty"`
}

func (e event) version() string {
	return cmp.Or(e.Introduced, e.Fixed, e.LastAffected, e.Limit)
}

// Load reads a database. Errors name the file.
func Load(file string) (*DB, error) {
	db := &DB{affected: map[string][]affected{}}
	bad := func(err error) (*DB, error) {
		return nil, command.BadInput(fmt.Errorf("%s: %w", file, err), "expected records in the OSV format: a zip archive, a JSON list, or one after the other")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, command.BadInput(err, "")
	}
	defer f.Close()
	fi, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular() || fi.Size() > maxFile:
		return bad(errors.New("not a regular file of at most 4 GiB"))
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	db.SHA256 = hex.EncodeToString(h.Sum(nil))
	if z, err := zip.NewReader(f, fi.Size()); err == nil {
		if err := db.archive(z); err != nil {
			return bad(err)
		}
		return db, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := db.stream(f); err != nil {
		return bad(err)
	}
	return db, nil
}

// archive reads every .json file.
func (db *DB) archive(z *zip.Reader) error {
	if len(z.File) > maxRecords {
		return fmt.Errorf("more than %d records", maxRecords)
	}
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, ".json") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return fmt.Errorf("%.100q: %w", f.Name, err)
		}
		rec := &record{}
		err = json.NewDecoder(io.LimitReader(r, maxRecord)).Decode(rec)
		if err = errors.Join(err, r.Close()); err == nil {
			err = db.add(rec)
		}
		if err != nil {
			return fmt.Errorf("%.100q: %w", f.Name, err)
		}
	}
	return nil
}

// stream reads a list of records, or one after the other.
func (db *DB) stream(r io.Reader) error {
	in := bufio.NewReader(r)
	first, err := in.Peek(1)
	for err == nil && strings.ContainsAny(string(first), " \t\r\n") {
		_, _ = in.ReadByte()
		first, err = in.Peek(1)
	}
	if err != nil {
		return errors.New("no records in it")
	}
	d := json.NewDecoder(in)
	if first[0] == '[' {
		if _, err := d.Token(); err != nil {
			return err
		}
	}
	for n := 0; d.More(); n++ {
		rec := &record{}
		if err := d.Decode(rec); err != nil {
			return err
		}
		if n > maxRecords {
			return fmt.Errorf("more than %d records", maxRecords)
		}
		if err := db.add(rec); err != nil {
			return err
		}
	}
	if first[0] == '[' {
		_, err = d.Token()
	}
	return err
}

// add takes what a record says of Debian's packages.
func (db *DB) add(r *record) error {
	if r.ID == "" || len(r.ID) > 200 || strings.ContainsFunc(r.ID, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return fmt.Errorf("a record's id is %.80q", r.ID)
	}
	if r.Withdrawn != "" {
		return nil
	}
	for _, a := range r.Affected {
		release, ok := strings.CutPrefix(a.Package.Ecosystem, "Debian")
		if !ok || release != "" && release[0] != ':' {
			continue
		}
		one := affected{record: r, release: strings.TrimPrefix(release, ":"), exact: a.Versions}
		for _, s := range a.Ranges {
			if s.Type == "ECOSYSTEM" {
				slices.SortStableFunc(s.Events, func(x, y event) int { return compare(x.version(), y.version()) })
				one.ranges = append(one.ranges, s)
			}
		}
		db.affected[a.Package.Name] = append(db.affected[a.Package.Name], one)
	}
	return nil
}

// compare orders versions; "0" is before all others (OSV, events).
func compare(a, b string) int {
	switch {
	case a == b:
		return 0
	case a == "0":
		return -1
	case b == "0":
		return 1
	}
	return dpkg.CompareVersions(a, b)
}

// Source is a source package of which something is installed.
type Source struct{ Name, Version string }

// Vulnerability is one that concerns a package.
type Vulnerability struct {
	ID      string   `json:"id"`
	Aliases []string `json:"aliases,omitempty"` // such as CVE-2026-1234
	Package string   `json:"package"`           // source package
	Version string   `json:"version"`           // of it in the image
	Fixed   string   `json:"fixed,omitempty"`   // the version that ends it; empty: none is known
	Summary string   `json:"summary,omitempty"`
}

// Number is a Debian release's by its code name; what is no code name that we
// know stays what it is.
func Number(release string) string { return cmp.Or(releases[release], release) }

// releases are Debian's by code name.
var releases = map[string]string{"buster": "10", "bullseye": "11", "bookworm": "12", "trixie": "13", "forky": "14"}

// Affecting returns what concerns packages of a Debian release, given by its
// code name or number, sorted by package and ID.
func (db *DB) Affecting(release string, packages []Source) ([]Vulnerability, error) {
	number := Number(release)
	if strings.Trim(number, "0123456789") != "" || number == "" {
		return nil, command.BadInput(fmt.Errorf("release %q: vulnerabilities are known of Debian's releases only", release), "")
	}
	var out []Vulnerability
	for _, p := range packages {
		for _, a := range db.affected[p.Name] {
			if a.release != "" && a.release != number {
				continue
			}
			if bad, fixed := a.has(p.Version); bad {
				summary, _, _ := strings.Cut(a.record.Summary, "\n")
				out = append(out, Vulnerability{a.record.ID, slices.Concat(a.record.Aliases, a.record.Upstream), p.Name, p.Version, fixed, summary})
			}
		}
	}
	slices.SortFunc(out, func(a, b Vulnerability) int {
		return cmp.Or(cmp.Compare(a.Package, b.Package), cmp.Compare(a.ID, b.ID), cmp.Compare(a.Version, b.Version))
	})
	return slices.CompactFunc(out, func(a, b Vulnerability) bool {
		return a.ID == b.ID && a.Package == b.Package && a.Version == b.Version
	}), nil
}

// has tells whether a version is affected (OSV, "Evaluation"), and the version
// that is not any more.
func (a *affected) has(version string) (bad bool, fixed string) {
	if slices.Contains(a.exact, version) {
		bad = true
	}
	for _, s := range a.ranges {
		in, end := false, ""
		for _, e := range s.Events {
			switch {
			case e.Introduced != "" && compare(version, e.Introduced) >= 0:
				in = true
			case e.Fixed != "" && compare(version, e.Fixed) >= 0,
				e.LastAffected != "" && compare(version, e.LastAffected) > 0,
				e.Limit != "" && compare(version, e.Limit) >= 0:
				in = false
			case e.Fixed != "" && end == "":
				end = e.Fixed
			}
		}
		if in {
			bad, fixed = true, cmp.Or(fixed, end)
		}
	}
	return bad, fixed
}
