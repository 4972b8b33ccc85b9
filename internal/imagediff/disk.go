package imagediff

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"

	"goldsmith/internal/baseimage"
	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/ext4"
	"goldsmith/internal/tree"
)

// espType is the EFI system partition (UEFI Specification 2.10, 5.3.3).
const espType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"

// disk reads a disk, or a bare file system.
func (c *collector) disk(r io.ReaderAt, size int64) error {
	format := func(kind string) {
		c.image.Format = strings.TrimPrefix(c.image.Format+", "+kind, ", ")
	}
	if magic(r, 1024, "\xe2\xe1\xf5\xe0") {
		format("erofs")
		return c.erofs(io.NewSectionReader(r, 0, size))
	}
	for _, kind := range unreadable {
		if magic(r, kind.at, kind.magic) {
			return fmt.Errorf("%s, which cannot be read here; compare another output of the same build", kind.name)
		}
	}
	t, err := gpt.Read(r, size, 512)
	if err != nil && !errors.Is(err, gpt.ErrNoTable) {
		return err
	}
	root := (*io.SectionReader)(nil)
	if err == nil {
		for _, p := range t.Partitions {
			c.image.Partitions = append(c.image.Partitions, disk.Partition{
				Number: p.Number, Name: p.Name, Type: p.Type, GUID: p.GUID, Start: p.Start, Size: p.Size})
			part := io.NewSectionReader(r, p.Start, p.Size)
			if p.Type == espType {
				c.kernelImages(part)
			}
			if root == nil && magic(part, 1024, "\xe2\xe1\xf5\xe0") {
				root = part
			}
		}
	}
	if root != nil {
		format("disk with an EROFS root")
		return c.erofs(root)
	}
	format("disk with an ext4 root")
	err = baseimage.WalkDisk(c.ctx, r, size, func(e *tree.Entry, content *ext4.Content) error {
		return c.add(e, func(w io.Writer) error {
			h := &inOrder{w: w, size: e.Size}
			if err := content.CopyTo(h); err != nil {
				return err
			}
			return h.finish()
		})
	})
	if command.HintOf(err) != "" { // of extracting
		return command.BadInput(errors.New(err.Error()),
			"an image is a disk with an EROFS or ext4 root, an archive, a container image or a directory")
	}
	return err
}

// unreadable are formats that are known and not read.
var unreadable = []struct {
	name, magic string
	at          int64
}{
	{"a VHD image", "conectix", 0}, {"a VHDX image", "vhdxfile", 0},
	{"a SquashFS file system", "hsqs", 0}, {"an ISO 9660 volume", "\x01CD001\x01", 32 << 10},
}

func magic(r io.ReaderAt, at int64, want string) bool {
	b := make([]byte, len(want))
	_, err := r.ReadAt(b, at)
	return (err == nil || err == io.EOF) && string(b) == want
}

// inOrder turns writes at growing offsets into a stream, in which zeros are
// where nothing is written.
type inOrder struct {
	w    io.Writer
	at   int64
	size int64
}

var zeros [64 << 10]byte

func (o *inOrder) pad(to int64) error {
	for o.at < to {
		n, err := o.w.Write(zeros[:min(to-o.at, int64(len(zeros)))])
		if o.at += int64(n); err != nil {
			return err
		}
	}
	return nil
}

func (o *inOrder) WriteAt(b []byte, off int64) (int, error) {
	if off < o.at {
		return 0, errors.New("content out of order")
	}
	if err := o.pad(off); err != nil {
		return 0, err
	}
	n, err := o.w.Write(b)
	o.at += int64(n)
	return n, err
}

func (o *inOrder) finish() error { return o.pad(o.size) }

// erofs reads an EROFS file system. Its reader is not ours and the file system
// may be hostile: whatever happens is an error.
func (c *collector) erofs(r *io.SectionReader) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = errors.New("its EROFS file system is damaged")
		}
	}()
	fsys, err := goerofs.Open(r)
	if err != nil {
		return err
	}
	w := &erofsWalk{
		c: c, fsys: fsys, image: r, first: map[int64]string{}, dirs: map[int64]bool{}, buf: make([]byte, 1<<20),
	}
	return w.visit(".")
}

// Layouts of inodes whose content is neither packed nor in chunks.
const (
	layoutPlain  = 0
	layoutInline = 2
)

type erofsWalk struct {
	c     *collector
	fsys  fs.FS
	image io.ReaderAt
	first map[int64]string // inodes with several names: the first of them
	dirs  map[int64]bool   // directories that were entered
	buf   []byte
}

func (w *erofsWalk) visit(p string) error {
	fi, err := fs.Lstat(w.fsys, p)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*goerofs.Stat)
	if !ok {
		return fmt.Errorf("%s: no attributes", p)
	}
	e := &tree.Entry{
		Path: p, Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID, Xattrs: st.Xattrs,
		ModTime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)),
		// The kernel's new_decode_dev.
		Major: st.Rdev >> 8 & 0xfff, Minor: st.Rdev&0xff | st.Rdev>>12&0xfff00,
	}
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		// The library puts a dot between these, which are whole names, and an
		// empty rest.
		if v, ok := e.Xattrs[name+"."]; ok {
			e.Xattrs[name] = v
			delete(e.Xattrs, name+".")
		}
	}
	switch e.Kind() {
	case tree.ModeRegular:
		e.Size = st.Size
	case tree.ModeSymlink:
		if e.Target, err = fs.ReadLink(w.fsys, p); err != nil {
			return err
		}
	}
	if st.Nlink > 1 && !e.IsDir() {
		if first, ok := w.first[st.Ino]; ok {
			e.LinkTo = first
		} else {
			w.first[st.Ino] = p
		}
	}
	if err := w.c.add(e, func(out io.Writer) error { return w.content(fi, p, out) }); err != nil || !e.IsDir() {
		return err
	}
	if w.dirs[st.Ino] {
		return fmt.Errorf("%s: a directory with two names", p)
	}
	w.dirs[st.Ino] = true
	list, err := fs.ReadDir(w.fsys, p)
	if err != nil {
		return err
	}
	for _, d := range list {
		if name := d.Name(); name == "" || name == "." || name == ".." || strings.Contains(name, "/") {
			return fmt.Errorf("%s: a file named %q", p, name)
		}
		if err := w.visit(path.Join(p, d.Name())); err != nil {
			return err
		}
	}
	return nil
}

// content writes a file's content, straight from the image where it lies in
// one piece.
func (w *erofsWalk) content(fi fs.FileInfo, p string, out io.Writer) error {
	plain, ok := fi.(interface{ DataRange() []goerofs.DataRange })
	if st := fi.Sys().(*goerofs.Stat); ok && (st.InodeLayout == layoutPlain || st.InodeLayout == layoutInline) {
		all := plain.DataRange()
		if len(all) == 1 && all[0].Device == 0 && all[0].Offset >= 0 && all[0].Size == fi.Size() {
			_, err := io.CopyBuffer(out, io.NewSectionReader(w.image, all[0].Offset, all[0].Size), w.buf)
			return err
		}
	}
	f, err := w.fsys.Open(p)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(out, f, w.buf)
	return errors.Join(err, f.Close())
}

// unixMode is st_mode of Go's mode.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, b := range []struct {
		is  fs.FileMode
		bit uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.is != 0 {
			mode |= b.bit
		}
	}
	switch m.Type() {
	case fs.ModeDir:
		return mode | tree.ModeDir
	case fs.ModeSymlink:
		return mode | tree.ModeSymlink
	case fs.ModeNamedPipe:
		return mode | tree.ModeFIFO
	case fs.ModeSocket:
		return mode | tree.ModeSocket
	case fs.ModeDevice:
		return mode | tree.ModeBlock
	case fs.ModeDevice | fs.ModeCharDevice:
		return mode | tree.ModeChar
	}
	return mode | tree.ModeRegular
}
