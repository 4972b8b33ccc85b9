// Package tarball writes file trees as tar archives (POSIX.1-2001 "pax"
// format, pax(1)), with hard links, devices and extended attributes.
//
// The same tree always gives the same bytes. Owners are numbers, without
// names: those belong to the tree's own passwd file.
package tarball

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"goldsmith/internal/command"
	"goldsmith/internal/tree"
)

// Write writes the archive of t to w, in path order. Paths begin with "./",
// as in archives that tar -C DIR -c . makes.
func Write(ctx context.Context, w io.Writer, t *tree.Tree) error {
	tw := tar.NewWriter(w)
	for _, e := range t.All() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if e.Kind() == tree.ModeSocket {
			continue // tar cannot hold one, and a socket without its server is nothing
		}
		if err := write(ctx, tw, t, e); err != nil {
			return fmt.Errorf("tar %s: %w", e.Path, err)
		}
	}
	return tw.Close()
}

func write(ctx context.Context, tw *tar.Writer, t *tree.Tree, e *tree.Entry) error {
	h, err := header(e)
	if err != nil {
		return err
	}
	if e.LinkTo != "" {
		if t.Lookup(e.LinkTo) == nil {
			return fmt.Errorf("hard link to %s, which is not there", e.LinkTo)
		}
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, name(e.LinkTo), 0
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	rc, err := e.Open()
	if err != nil {
		return err
	}
	_, err = io.Copy(tw, command.Reader(ctx, rc)) // a file may be large
	return errors.Join(err, rc.Close())
}

func name(path string) string {
	if path == "." {
		return "./"
	}
	return "./" + path
}

var types = map[uint32]byte{
	tree.ModeRegular: tar.TypeReg, tree.ModeDir: tar.TypeDir, tree.ModeSymlink: tar.TypeSymlink,
	tree.ModeChar: tar.TypeChar, tree.ModeBlock: tar.TypeBlock, tree.ModeFIFO: tar.TypeFifo,
}

func header(e *tree.Entry) (*tar.Header, error) {
	kind, ok := types[e.Kind()]
	if !ok {
		return nil, fmt.Errorf("unknown kind of file %#o", e.Kind())
	}
	h := &tar.Header{
		Format: tar.FormatPAX, Typeflag: kind, Name: name(e.Path), Linkname: e.Target,
		Mode: int64(e.Mode &^ tree.ModeType), Uid: int(e.UID), Gid: int(e.GID), ModTime: e.ModTime,
		Devmajor: int64(e.Major), Devminor: int64(e.Minor),
	}
	if kind == tar.TypeReg {
		h.Size = e.Size
	}
	if kind == tar.TypeDir && e.Path != "." {
		h.Name += "/"
	}
	for attr, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+attr] = value // written in order of their names
	}
	return h, nil
}
