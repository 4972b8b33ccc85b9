package ext4

import (
	"errors"
	"fmt"
	"io"
	"time"

	"goldsmith/internal/tree"
)

// rootInode is the number of the root directory.
const rootInode = 2

// Flags of inodes.
const (
	flagEncrypted = 0x800
	flagExtents   = 0x80000
	flagInline    = 0x10000000
)

// inode is one inode, as far as it is needed.
type inode struct {
	number  uint32
	mode    uint32
	uid     uint32
	gid     uint32
	links   uint16
	flags   uint32
	size    int64
	mtime   time.Time
	block   []byte // the 60 bytes of i_block
	xattrs  map[string]string
	tail    string // inline data beyond the first 60 bytes
	devices [2]uint32
}

func (fs *FS) inode(n uint32) (*inode, error) {
	ino, err := fs.readInode(n)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", n, err)
	}
	return ino, nil
}

func (fs *FS) readInode(n uint32) (*inode, error) {
	if n == 0 || n > fs.inodes {
		return nil, errors.New("there is none of this number")
	}
	desc := make([]byte, fs.descSize)
	if _, err := fs.r.ReadAt(desc, fs.descriptor(int64((n-1)/fs.perGroup))); err != nil {
		return nil, err
	}
	table := int64(le.Uint32(desc[0x8:]))
	if fs.incompat&feat64bit != 0 && fs.descSize >= 64 {
		table |= int64(le.Uint32(desc[0x28:])) << 32
	}
	at := int64((n-1)%fs.perGroup) * fs.inodeSize
	if table <= 0 || table+at/fs.blockSize >= fs.blocks {
		return nil, errors.New("it is outside of the file system")
	}
	b := make([]byte, fs.inodeSize)
	if _, err := fs.r.ReadAt(b, table*fs.blockSize+at); err != nil {
		return nil, err
	}
	return fs.parseInode(n, b)
}

func (fs *FS) parseInode(n uint32, b []byte) (*inode, error) {
	ino := &inode{
		number: n, mode: uint32(le.Uint16(b)), links: le.Uint16(b[0x1a:]), flags: le.Uint32(b[0x20:]), block: b[0x28:0x64],
		uid:  uint32(le.Uint16(b[0x2:])) | uint32(le.Uint16(b[0x78:]))<<16,
		gid:  uint32(le.Uint16(b[0x18:])) | uint32(le.Uint16(b[0x7a:]))<<16,
		size: int64(le.Uint32(b[0x4:])),
	}
	if ino.isFile() || ino.isDir() {
		ino.size |= int64(le.Uint32(b[0x6c:])) << 32
	}
	if ino.size < 0 {
		return nil, errors.New("a negative size")
	}
	if ino.flags&flagEncrypted != 0 {
		return nil, errors.New("it is encrypted")
	}
	sec, nsec := int64(int32(le.Uint32(b[0x10:]))), int64(0)
	extra := int64(0)
	if len(b) > 0x80 {
		extra = int64(le.Uint16(b[0x80:]))
	}
	if extra >= 0x8c-0x80 && len(b) >= 0x8c {
		x := le.Uint32(b[0x88:])
		sec += int64(x&3) << 32
		nsec = int64(x >> 2)
	}
	ino.mtime = time.Unix(sec, nsec).UTC()
	var err error
	if ino.xattrs, err = fs.xattrs(b, extra); err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	if ino.flags&flagInline != 0 {
		ino.tail = ino.xattrs[inlineAttribute]
		delete(ino.xattrs, inlineAttribute)
	}
	ino.devices = [2]uint32{le.Uint32(ino.block), le.Uint32(ino.block[4:])}
	return ino, nil
}

func (ino *inode) kind() uint32 { return ino.mode & tree.ModeType }
func (ino *inode) isDir() bool  { return ino.kind() == tree.ModeDir }
func (ino *inode) isFile() bool { return ino.kind() == tree.ModeRegular }

// device decodes a device number: the old form where it is set, else the new.
func (ino *inode) device() (major, minor uint32) {
	if old := ino.devices[0]; old != 0 {
		return old >> 8 & 0xff, old & 0xff
	}
	n := ino.devices[1]
	return n >> 8 & 0xfff, n&0xff | n>>12&0xfff00
}

// inline returns the content that an inode holds itself.
func (ino *inode) inline() (string, error) {
	all := string(ino.block) + ino.tail
	if ino.size > int64(len(all)) {
		return "", errors.New("less content in it than its size says")
	}
	return all[:ino.size], nil
}

// target reads what a symbolic link points to.
func (fs *FS) target(ino *inode) (string, error) {
	const longest = 4096 // Linux's PATH_MAX
	switch {
	case ino.size == 0 || ino.size > longest:
		return "", fmt.Errorf("a symbolic link of %d bytes", ino.size)
	case ino.flags&flagInline != 0:
		return ino.inline()
	case ino.flags&flagExtents == 0 && ino.size < int64(len(ino.block)):
		return string(ino.block[:ino.size]), nil
	}
	b, err := fs.content(ino, longest)
	return string(b), err
}

// content reads a short file, at most limit bytes, as a whole.
func (fs *FS) content(ino *inode, limit int64) ([]byte, error) {
	if limit = min(limit, fs.blocks*fs.blockSize); ino.size > limit {
		return nil, fmt.Errorf("%d bytes are more than the %d that make sense", ino.size, limit)
	}
	if ino.flags&flagInline != 0 {
		s, err := ino.inline()
		return []byte(s), err
	}
	runs, err := fs.runs(ino)
	if err != nil {
		return nil, err
	}
	b := make([]byte, ino.size)
	for _, r := range runs {
		start := r.logical * fs.blockSize
		if start >= ino.size {
			break
		}
		part := b[start:min(ino.size, start+r.count*fs.blockSize)]
		if _, err := fs.r.ReadAt(part, r.physical*fs.blockSize); err != nil {
			return nil, unexpected(err)
		}
	}
	return b, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
