// Package filelist lists the files of an image: what lies where, whose it is,
// what it holds, and which Debian package brought it. It is the image's file
// manifest, NAME.files (docs/formats.md): one JSON object a line, in path order,
// fit for grep, jq and diff.
//
// The same tree always gives the same bytes. Times are left out: a build cuts
// them off at one moment, and what is younger says nothing.
package filelist

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"goldsmith/internal/command"
	"goldsmith/internal/tree"
)

// File is one line.
type File struct {
	Path string `json:"path"` // absolute; "/" is the root
	// RawPath are the bytes of a path that is not UTF-8, for which Path has
	// replacement characters.
	RawPath []byte `json:"raw_path,omitempty"`
	Type    string `json:"type"` // file, dir, symlink, char, block, fifo or socket
	Mode    string `json:"mode"` // permission bits, four or more octal digits
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Size    int64  `json:"size"`             // of files, in bytes; else 0
	SHA256  string `json:"sha256,omitempty"` // of files, in hexadecimal
	Target  string `json:"target,omitempty"` // of symbolic links
	Link    string `json:"link,omitempty"`   // the earlier path that this is a hard link to
	Device  string `json:"device,omitempty"` // of devices, MAJOR:MINOR
	Package string `json:"package,omitempty"`
	// Xattrs are extended attributes by their full names; in JSON, values are
	// base64.
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// kinds by st_mode's type bits.
var kinds = map[uint32]string{
	tree.ModeRegular: "file", tree.ModeDir: "dir", tree.ModeSymlink: "symlink", tree.ModeChar: "char",
	tree.ModeBlock: "block", tree.ModeFIFO: "fifo", tree.ModeSocket: "socket",
}

// New describes an entry, but for its content and its package.
func New(e *tree.Entry) File {
	f := File{
		Path: "/" + e.Path, Type: kinds[e.Kind()], Mode: fmt.Sprintf("%04o", e.Mode&0o7777), UID: e.UID, GID: e.GID,
		Target: e.Target,
	}
	if e.Path == "." {
		f.Path = "/"
	}
	if !utf8.ValidString(f.Path) {
		f.RawPath = []byte(f.Path)
	}
	if e.LinkTo != "" {
		f.Link = "/" + e.LinkTo
	}
	switch e.Kind() {
	case tree.ModeRegular:
		f.Size = e.Size
	case tree.ModeChar, tree.ModeBlock:
		f.Device = fmt.Sprintf("%d:%d", e.Major, e.Minor)
	}
	for name, value := range e.Xattrs {
		if f.Xattrs == nil {
			f.Xattrs = make(map[string][]byte, len(e.Xattrs))
		}
		f.Xattrs[name] = []byte(value)
	}
	return f
}

// Sums are digests of files that were read before: by path, the file's stamp
// and digest.
type Sums map[string]Sum

// Sum is what a file holds, and the [tree.Entry.Stamp] that it had.
type Sum struct{ Stamp, SHA256 string }

// List describes every entry of a tree, in its order. Every file is read once
// for its digest, but for those that known has with the stamp they have now;
// known may be nil.
func List(ctx context.Context, t *tree.Tree, known Sums) ([]File, error) {
	owners, err := Owners(t)
	if err != nil {
		return nil, err
	}
	out := make([]File, 0, t.Len())
	sums := map[string]string{} // of what was read, by path
	buf := make([]byte, 256<<10)
	for _, e := range t.All() {
		f := New(e)
		f.Package = owners[e.Path]
		if e.Kind() == tree.ModeRegular {
			if k, ok := known[e.Path]; e.LinkTo != "" {
				f.SHA256 = sums[e.LinkTo]
			} else if ok && k.Stamp != "" && k.Stamp == e.Stamp() {
				f.SHA256 = k.SHA256
			} else if f.SHA256, err = digest(ctx, e, buf); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
			sums[e.Path] = f.SHA256
		}
		out = append(out, f)
	}
	return out, nil
}

func digest(ctx context.Context, e *tree.Entry, buf []byte) (_ string, err error) {
	rc, err := e.Open()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	h := sha256.New()
	if _, err := io.CopyBuffer(onlyWriter{h}, command.Reader(ctx, rc), buf); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// onlyWriter keeps io.CopyBuffer to the buffer it is given.
type onlyWriter struct{ io.Writer }

// Write writes the list, one line a file.
func Write(w io.Writer, files []File) error {
	b := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	for i := range files {
		if err := enc.Encode(&files[i]); err != nil {
			return err
		}
	}
	return b.Flush()
}
