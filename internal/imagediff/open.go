package imagediff

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/baseimage"
	"goldsmith/internal/command"
	"goldsmith/internal/qcow2"
	"goldsmith/internal/sparse"
	"goldsmith/internal/tree"
	"goldsmith/internal/vmdk"
)

// Source is an image that was found but not read.
type Source struct {
	name string
	path string // of the file or directory
	tag  string // in a layout; may be empty
}

// Find says which file or directory name means: a path; oci:DIRECTORY[:TAG] or
// oci-archive:FILE[:TAG]; a NAME.manifest.json, which means one of its outputs.
func Find(name string) (Source, error) {
	s := Source{name: name, path: name}
	rest, layout := strings.CutPrefix(name, "oci:")
	if rest2, ok := strings.CutPrefix(rest, "oci-archive:"); ok {
		rest, layout = rest2, true
	}
	if _, err := os.Stat(rest); err == nil {
		s.path = rest
	} else if i := strings.LastIndex(rest, ":"); i > strings.LastIndex(rest, "/") && (layout || isLayout(rest[:i])) {
		s.path, s.tag = rest[:i], rest[i+1:]
	}
	var st unix.Stat_t
	if err := unix.Stat(s.path, &st); err != nil {
		return s, command.BadInput(fmt.Errorf("%s: %w", name, err),
			"name an image's file, its manifest, a directory, or oci:DIRECTORY:TAG")
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFBLK, unix.S_IFDIR:
	default: // to open a pipe would wait for its other end
		return s, command.BadInput(fmt.Errorf("%s: neither a file nor a disk nor a directory", name), "")
	}
	if strings.HasSuffix(s.path, ".manifest.json") {
		return s.output()
	}
	return s, nil
}

func isLayout(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "oci-layout"))
	return err == nil
}

// readable are formats that an image's content can be read from, the cheapest
// first.
var readable = []string{
	"raw", "erofs", "tar", "qcow2", "qcow2-zlib", "qcow2-none", "vmdk", "oci", "tar.zst", "tar.gz", "tgz",
}

// output follows a manifest to an output.
func (s Source) output() (Source, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return s, command.BadInput(err, "")
	}
	defer f.Close()
	var m struct {
		Outputs []struct{ Format, Path string }
	}
	if err := json.NewDecoder(io.LimitReader(f, maxText)).Decode(&m); err != nil {
		return s, command.BadInput(fmt.Errorf("%s: %w", s.name, err), "'imgbuild build' writes it beside the image")
	}
	for _, format := range readable {
		for _, o := range m.Outputs {
			if o.Format == format {
				s.path = filepath.Join(filepath.Dir(s.path), filepath.Base(o.Path))
				return s, nil
			}
		}
	}
	return s, command.BadInput(fmt.Errorf("%s: none of its outputs can be read", s.name),
		"build it as one of these, too: "+strings.Join(readable, ", "))
}

// Same tells whether two sources are one, or have the same bytes. Of
// directories, only the first is found out.
func Same(ctx context.Context, a, b Source) (bool, error) {
	fa, err := os.Open(a.path)
	if err != nil {
		return false, command.BadInput(err, "")
	}
	defer fa.Close()
	fb, err := os.Open(b.path)
	if err != nil {
		return false, command.BadInput(err, "")
	}
	defer fb.Close()
	sa, err := fa.Stat()
	if err != nil {
		return false, err
	}
	sb, err := fb.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(sa, sb) && a.tag == b.tag {
		return true, nil
	}
	if !sa.Mode().IsRegular() || !sb.Mode().IsRegular() || sa.Size() != sb.Size() || a.tag != b.tag {
		return false, nil
	}
	ra, err := sparse.NewReader(fa)
	if err != nil {
		return false, err
	}
	rb, err := sparse.NewReader(fb)
	if err != nil {
		return false, err
	}
	return sameBytes(ctx, ra, rb)
}

func sameBytes(ctx context.Context, a, b io.Reader) (bool, error) {
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		if err := context.Cause(ctx); err != nil {
			return false, err
		}
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		end := errA == io.EOF || errA == io.ErrUnexpectedEOF
		if errA != nil && !end {
			return false, errA
		}
		if errB != nil && errB != io.EOF && errB != io.ErrUnexpectedEOF {
			return false, errB
		}
		if end {
			return true, nil
		}
	}
}

// Read reads an image. It writes nothing but, for a disk that is packed, a
// nameless file in the directory for temporary files. An image may be anyone's:
// what it makes this read is bounded.
func Read(ctx context.Context, s Source) (*Image, error) {
	m := &Image{Path: s.name}
	c := newCollector(ctx, m)
	if err := c.open(s); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, command.BadInput(fmt.Errorf("%s: %w", s.name, err), command.HintOf(err))
	}
	return m, c.finish()
}

func (c *collector) open(s Source) error {
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	switch {
	case fi.IsDir() && isLayout(s.path):
		return c.layout(dirLayout(s.path), s.tag)
	case fi.IsDir():
		return c.directory(s.path)
	}
	size, err := f.Seek(0, io.SeekEnd) // for devices, too
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c.image.Size = size
	return c.file(f, size, s.tag)
}

// file reads what is in a file, which its content tells.
func (c *collector) file(f *os.File, size int64, tag string) error {
	head := make([]byte, 512)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if head = head[:n]; bytes.HasPrefix(head, []byte(qcow2.Magic)) {
		q, err := qcow2.NewReader(f, size)
		if err != nil {
			return err
		}
		c.image.Format = "qcow2"
		return c.disk(q, q.Size())
	}
	if bytes.HasPrefix(head, []byte(vmdk.Magic)) {
		v, err := vmdk.NewReader(f)
		if err != nil {
			return err
		}
		c.image.Format = "vmdk"
		return c.disk(v, v.Size())
	}
	z, packed, err := baseimage.Decompress(command.Reader(c.ctx, f))
	if err != nil {
		return err
	}
	defer z.Close()
	b := bufio.NewReaderSize(z, 1<<20)
	if head, _ := b.Peek(512); len(head) == 512 && string(head[257:262]) == "ustar" {
		if !packed {
			if l, err := tarLayout(f); l != nil || err != nil {
				if err != nil {
					return err
				}
				return c.layout(l, tag)
			}
			if _, err := f.Seek(0, io.SeekStart); err != nil {
				return err
			}
			b = bufio.NewReaderSize(f, 1<<20)
		}
		c.image.Format = "tar"
		return baseimage.WholeTar(b, c.tar)
	}
	if !packed {
		return c.disk(f, size)
	}
	return c.packed(b)
}

// packed reads a disk that is compressed.
func (c *collector) packed(r io.Reader) error {
	fd, err := unix.Open(os.TempDir(), unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "make a file in", Path: os.TempDir(), Err: err}
	}
	raw := os.NewFile(uintptr(fd), "unpacked disk")
	defer raw.Close()
	n, err := sparse.Copy(raw, command.Reader(c.ctx, io.LimitReader(r, maxContent)))
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return c.disk(raw, n)
}

// directory reads a tree that lies unpacked.
func (c *collector) directory(dir string) error {
	c.image.Format = "directory"
	t, err := tree.FromDir(dir)
	if err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for _, e := range t.All() {
		err := c.add(e, func(w io.Writer) error {
			rc, err := e.Open()
			if err != nil {
				return err
			}
			_, err = io.CopyBuffer(w, rc, buf)
			return errors.Join(err, rc.Close())
		})
		if err != nil {
			return err
		}
	}
	return nil
}
