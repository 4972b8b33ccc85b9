// Package deb reads Debian binary packages, deb(5): an ar archive of a version,
// a tar archive of control files and one of the files to install.
//
// The contents are what somebody else wrote: sizes are bounded, and names are
// only handed on, never used. What a name may reach is for the caller to see to.
package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// File is an open package.
type File struct {
	f       *os.File
	control member
	data    member
}

// member is one file of the ar archive.
type member struct {
	name         string
	offset, size int64
}

const (
	arMagic  = "!<arch>\n"
	arHeader = 60 // bytes
	// maxMembers bounds the members of the archive. There are three, and
	// names with an underscore that are to be skipped.
	maxMembers = 16
)

// Open reads the table of a package file. The caller closes it.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &File{f: f}
	if err := d.readMembers(); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: not a Debian package: %w", path, err), f.Close())
	}
	return d, nil
}

// Close ends the use of the file. A reader from Data has its own.
func (d *File) Close() error { return d.f.Close() }

func (d *File) readMembers() error {
	fi, err := d.f.Stat()
	if err != nil {
		return err
	}
	magic := make([]byte, len(arMagic))
	if _, err := d.f.ReadAt(magic, 0); err != nil || string(magic) != arMagic {
		return errors.New("no ar archive")
	}
	at := int64(len(arMagic))
	for n := 0; at < fi.Size() && n < maxMembers; n++ {
		m, err := d.readHeader(at, fi.Size())
		if err != nil {
			return err
		}
		switch {
		case n == 0:
			if err := d.checkVersion(m); err != nil {
				return err
			}
		case strings.HasPrefix(m.name, "control.tar") && d.control.name == "":
			d.control = m
		case strings.HasPrefix(m.name, "data.tar") && d.control.name != "":
			d.data = m
			return nil
		case !strings.HasPrefix(m.name, "_"):
			return fmt.Errorf("member %q is out of place", m.name)
		}
		at = m.offset + m.size + m.size%2
	}
	return errors.New("control.tar or data.tar is missing")
}

func (d *File) readHeader(at, end int64) (member, error) {
	h := make([]byte, arHeader)
	if _, err := d.f.ReadAt(h, at); err != nil {
		return member{}, errors.New("cut off")
	}
	size, err := strconv.ParseInt(strings.TrimRight(string(h[48:58]), " "), 10, 64)
	if err != nil || string(h[58:60]) != "`\n" || size < 0 || size > end-at-arHeader {
		return member{}, fmt.Errorf("bad ar header at offset %d", at)
	}
	return member{strings.TrimRight(strings.TrimRight(string(h[:16]), " "), "/"), at + arHeader, size}, nil
}

func (d *File) checkVersion(m member) error {
	text := make([]byte, min(m.size, 16))
	if _, err := d.f.ReadAt(text, m.offset); err != nil {
		return err
	}
	if m.name != "debian-binary" || !bytes.HasPrefix(text, []byte("2.")) {
		return fmt.Errorf("format %q is not known", bytes.TrimSpace(text))
	}
	return nil
}

// Data returns the archive of files, uncompressed, in the tar format. The
// caller reads it to its end or closes it.
func (d *File) Data(ctx context.Context) (io.ReadCloser, error) {
	return decompress(ctx, d.f.Name(), d.data)
}
