package baseimage

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"goldsmith/internal/command"
	"goldsmith/internal/qcow2"
	"goldsmith/internal/sparse"
	"goldsmith/internal/tree"
)

// compressions by how their files begin.
var compressions = []struct {
	magic string
	open  func(r io.Reader) (io.ReadCloser, error)
}{
	{"\x1f\x8b", func(r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) }},
	{"\x28\xb5\x2f\xfd", func(r io.Reader) (io.ReadCloser, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}},
	{"\xfd7zXZ\x00", func(r io.Reader) (io.ReadCloser, error) {
		z, err := xz.NewReader(r)
		return io.NopCloser(z), err
	}},
	{"BZh", func(r io.Reader) (io.ReadCloser, error) { return io.NopCloser(bzip2.NewReader(r)), nil }},
}

// Decompress returns what r holds, unpacked if it is packed by gzip, xz, zstd
// or bzip2. The caller closes it; r stays open.
func Decompress(r io.Reader) (_ io.ReadCloser, packed bool, err error) {
	b := bufio.NewReaderSize(r, 1<<16)
	head, _ := b.Peek(8) // a short file is no error here
	for _, c := range compressions {
		if bytes.HasPrefix(head, []byte(c.magic)) {
			z, err := c.open(b)
			return z, true, err
		}
	}
	return io.NopCloser(b), false, nil
}

// isTar tells an archive by its first header.
func isTar(b *bufio.Reader) bool {
	head, _ := b.Peek(512)
	return len(head) == 512 && string(head[257:262]) == "ustar"
}

// file extracts what is in a file: archive or disk.
func (x *extraction) file(ctx context.Context, f *os.File) error {
	z, packed, err := Decompress(command.Reader(ctx, f))
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	defer z.Close()
	b := bufio.NewReaderSize(z, 1<<20)
	if isTar(b) {
		u := newUnpacker(x.root)
		if err := errors.Join(WholeTar(b, u.tar), u.finish()); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		return nil
	}
	if packed {
		raw, err := os.Create(filepath.Join(x.tmp, "disk"))
		if err != nil {
			return err
		}
		defer raw.Close()
		if _, err := sparse.Copy(raw, b); err != nil {
			return fmt.Errorf("unpack %s: %w", f.Name(), err)
		}
		f = raw
	}
	return x.diskFile(ctx, f)
}

// diskFile extracts the root of a disk.
func (x *extraction) diskFile(ctx context.Context, f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd) // for devices, too
	if err != nil {
		return err
	}
	d := &disk{r: f, size: size}
	head := make([]byte, len(qcow2.Magic))
	if _, err := f.ReadAt(head, 0); err == nil && string(head) == qcow2.Magic {
		q, err := qcow2.NewReader(f, size)
		if err != nil {
			return command.BadInput(fmt.Errorf("%s: %w", filepath.Base(f.Name()), err), "")
		}
		d = &disk{r: q, size: q.Size()}
	}
	if err := x.disk(ctx, d); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(f.Name()), err)
	}
	return nil
}

// kinds of files by their types in archives.
var kinds = map[byte]uint32{
	tar.TypeReg: tree.ModeRegular, tar.TypeLink: tree.ModeRegular, tar.TypeDir: tree.ModeDir,
	tar.TypeSymlink: tree.ModeSymlink, tar.TypeChar: tree.ModeChar, tar.TypeBlock: tree.ModeBlock, tar.TypeFifo: tree.ModeFIFO,
}

// WholeTar has f read an archive that must have its end mark, blocks of zeros,
// without which it may have been cut off behind any file. Layers do not need
// one: their digests say that they are whole.
func WholeTar(r io.Reader, f func(io.Reader) error) error {
	end := &endReader{r: r}
	if err := f(end); err != nil {
		return err
	}
	if end.zeros < tarBlock {
		return errors.New("the archive has no end: was it cut off?")
	}
	return nil
}

const tarBlock = 512 // bytes

// endReader counts the zeros that end what was read from r.
type endReader struct {
	r     io.Reader
	zeros int64 // bytes
}

func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	rest := len(bytes.TrimRight(b[:n], "\x00"))
	if rest > 0 {
		e.zeros = 0
	}
	e.zeros += int64(n - rest)
	return n, err
}

// tar writes an archive, or a layer of a container image with its whiteouts.
func (u *unpacker) tar(r io.Reader) error {
	clear(u.layer)
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if hidden, err := u.hide(h.Name); hidden || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		e, err := TarEntry(h)
		if err == nil {
			err = u.add(e, func(f *os.File) error {
				if _, err := sparse.Copy(f, tr); err != nil {
					return fmt.Errorf("%s: %w", h.Name, err)
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
	}
}

// TarEntry turns an archive's header into an entry without content.
func TarEntry(h *tar.Header) (*tree.Entry, error) {
	kind, ok := kinds[h.Typeflag]
	if !ok {
		return nil, fmt.Errorf("%s: a file of the unknown type %q", h.Name, h.Typeflag)
	}
	if h.Uid < 0 || h.Gid < 0 || h.Devmajor < 0 || h.Devminor < 0 {
		return nil, fmt.Errorf("%s: a negative owner or device", h.Name)
	}
	e := &tree.Entry{
		Path: tree.Clean(h.Name), Mode: kind | uint32(h.Mode&0o7777), UID: uint32(h.Uid), GID: uint32(h.Gid),
		ModTime: h.ModTime, Size: h.Size, Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
	}
	switch h.Typeflag {
	case tar.TypeLink:
		e.LinkTo = tree.Clean(h.Linkname)
	case tar.TypeSymlink:
		e.Target = h.Linkname
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = value
		}
	}
	return e, nil
}
