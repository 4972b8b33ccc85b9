// Package erofs writes EROFS file system images: read-only, uncompressed and
// the same bytes for the same tree, every time and for every user.
//
// The image is one forward stream, so it needs memory for its metadata only
// and its SHA-256 costs no second pass:
//
//	block 0     superblock (at byte 1024), the rest zero
//	block 1 …   inodes in tree order, each followed by its extended attributes
//	            and, where they are short, its directory entries, link target
//	            or content ("inline tail")
//	…           the blocks of long directories and link targets, then of files
//
// Blocks are 4096 bytes. Every inode is of the extended kind (64 bytes, 32-bit
// owners, times in nanoseconds). Names linked to one file share its inode.
// Compression, chunks, several devices and shared attributes are left out: the
// artifact is compressed, not the root, and Linux 5.4 can mount the result.
//
// The format is that of fs/erofs/erofs_fs.h in Linux, described at
// https://docs.kernel.org/filesystems/erofs.html.
package erofs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"goldsmith/internal/tree"
)

// Magic is the superblock's first field, little-endian, at byte
// [SuperOffset] of the image.
const Magic = 0xe0f5e1e2

// SuperOffset is where the superblock starts, in bytes.
const SuperOffset = 1024

// BlockSize is the size of a block in bytes; every image is a multiple of it.
const BlockSize = 4096

const (
	inodeSize  = 64
	direntSize = 12
	nidUnit    = 32        // an inode's number is its byte offset divided by this
	firstInode = BlockSize // the root's inode must lie low: its number has 16 bits
	// maxInline is the longest file content kept beside its inode. Longer ones
	// would spread the inodes over too many blocks.
	maxInline = 2048

	compatChecksum = 0x1
	compatMtime    = 0x2

	layoutPlain  = 0
	layoutInline = 2
)

// Options are what an image holds besides its tree.
type Options struct {
	UUID  [16]byte  // volume identifier; zero stays zero
	Label string    // volume name, at most 16 bytes
	Time  time.Time // when the volume was made; also for entries without a time
}

// Result describes a written image.
type Result struct {
	Size   int64 // in bytes, a multiple of BlockSize
	Inodes int
	SHA256 [32]byte
}

// Size tells how long the image of t will be, in bytes. It reads no contents.
func Size(t *tree.Tree) (int64, error) {
	p, err := newPlan(t, time.Time{})
	if err != nil {
		return 0, err
	}
	return int64(p.blocks) * BlockSize, nil
}

// Write writes the image of t to w, from offset 0 on, in order and without
// gaps. Contents are read once, while they are written.
func Write(w io.WriterAt, t *tree.Tree, o Options) (Result, error) {
	if len(o.Label) > 16 {
		return Result{}, fmt.Errorf("erofs: label %q is longer than 16 bytes", o.Label)
	}
	p, err := newPlan(t, o.Time)
	if err != nil {
		return Result{}, err
	}
	s := newStream(w)
	s.write(p.superblock(o))
	for _, n := range p.inodes {
		if err := p.writeInode(s, n); err != nil {
			return Result{}, err
		}
	}
	s.pad(BlockSize)
	for _, n := range p.outside {
		if err := p.writeBlocks(s, n); err != nil {
			return Result{}, err
		}
	}
	sum, err := s.finish()
	if err != nil {
		return Result{}, fmt.Errorf("erofs: %w", err)
	}
	if want := int64(p.blocks) * BlockSize; s.off != want {
		return Result{}, fmt.Errorf("erofs: wrote %d bytes where %d were planned", s.off, want)
	}
	return Result{Size: s.off, Inodes: len(p.inodes), SHA256: sum}, nil
}

// super is struct erofs_super_block.
type super struct {
	Magic, Checksum, Compat uint32
	BlockBits, ExtSlots     uint8
	RootNid                 uint16
	Inodes, Time            uint64
	TimeNs, Blocks          uint32
	MetaBlock, XattrBlock   uint32
	UUID, Label             [16]byte
	Incompat                uint32
	_                       [44]byte
}

func (p *plan) superblock(o Options) []byte {
	sb := super{
		Magic: Magic, Compat: compatChecksum | compatMtime, BlockBits: 12,
		RootNid: uint16(p.inodes[0].nid()), Inodes: uint64(len(p.inodes)),
		Blocks: p.blocks, UUID: o.UUID,
	}
	if !o.Time.IsZero() {
		sb.Time, sb.TimeNs = uint64(o.Time.Unix()), uint32(o.Time.Nanosecond())
	}
	copy(sb.Label[:], o.Label)
	var b bytes.Buffer
	b.Write(make([]byte, SuperOffset))
	_ = binary.Write(&b, binary.LittleEndian, &sb) // a bytes.Buffer does not fail
	block := append(b.Bytes(), make([]byte, BlockSize-b.Len())...)
	// The kernel's crc32c() neither starts nor ends with an inversion; the
	// superblock's starts with all ones.
	sum := ^crc32.Checksum(block[SuperOffset:], crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(block[SuperOffset+4:], sum)
	return block
}

// inode is struct erofs_inode_extended.
type inode struct {
	Format, Xattrs, Mode, _ uint16
	Size                    uint64
	Block                   uint32 // first data block, or the device number
	Ino, UID, GID           uint32
	Mtime                   uint64
	MtimeNs, Nlink          uint32
	_                       [16]byte
}

func (p *plan) writeInode(s *stream, n *node) error {
	s.padTo(n.off)
	e := n.entry
	raw := inode{
		Format: 1 | uint16(n.layout())<<1, Xattrs: n.xattrUnits(), Mode: uint16(e.Mode),
		Size: uint64(n.size), Block: n.block, Ino: n.ino, UID: e.UID, GID: e.GID, Nlink: n.nlink,
	}
	if k := e.Kind(); k == tree.ModeChar || k == tree.ModeBlock {
		raw.Block = deviceNumber(e.Major, e.Minor)
	}
	t := e.ModTime
	if t.IsZero() {
		t = p.time
	}
	if !t.IsZero() {
		raw.Mtime, raw.MtimeNs = uint64(t.Unix()), uint32(t.Nanosecond())
	}
	b := make([]byte, inodeSize)
	if _, err := binary.Encode(b, binary.LittleEndian, &raw); err != nil {
		return err
	}
	s.write(b)
	s.write(n.xattrs)
	if n.inline {
		return p.writeContent(s, n)
	}
	return s.err
}

func (p *plan) writeBlocks(s *stream, n *node) error {
	s.padTo(int64(n.block) * BlockSize)
	if err := p.writeContent(s, n); err != nil {
		return err
	}
	s.pad(BlockSize)
	return s.err
}

func (p *plan) writeContent(s *stream, n *node) error {
	switch n.entry.Kind() {
	case tree.ModeDir:
		s.write(n.directory())
	case tree.ModeSymlink:
		s.write([]byte(n.entry.Target))
	case tree.ModeRegular:
		if n.size == 0 {
			break
		}
		rc, err := n.entry.Open()
		if err != nil {
			return fmt.Errorf("erofs: %w", err)
		}
		got, err := s.copyFrom(rc)
		if cerr := rc.Close(); err == nil {
			err = cerr
		}
		if err == nil && got != n.size {
			err = fmt.Errorf("%d bytes where %d were expected", got, n.size)
		}
		if err != nil {
			return fmt.Errorf("erofs: %s: %w", n.entry.Path, err)
		}
	}
	return s.err
}

// deviceNumber is the kernel's new_encode_dev: 12 bits of major, 20 of minor.
func deviceNumber(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}
