// Package ext4 reads ext2, ext3 and ext4 file systems from an image, without
// mounting it: trees of base images that somebody else has made.
//
// It only reads, and trusts nothing: the file system may be damaged or made to
// harm. Every number is held against the size of the file system, no directory
// is entered twice, and all files together may not have more blocks than there
// are, so that a small image cannot hold much. Features that change the format
// and that are not known are refused by name, and so is a journal with changes
// that are not in their place yet. Checksums are not verified: whether the
// image is the one that was meant is for the caller to know.
//
// The format is described in the kernel's
// Documentation/filesystems/ext4 ("Data Structures and Algorithms").
package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

var le = binary.LittleEndian

// ErrNone means that there is no sign of an ext2, ext3 or ext4 file system.
var ErrNone = errors.New("no ext2, ext3 or ext4 file system")

// FS is a file system. It may be used by one goroutine at a time.
type FS struct {
	Label string // volume name; may be empty
	UUID  string // with dashes, in lower case

	r           io.ReaderAt
	blockSize   int64
	blocks      int64 // of the file system
	inodes      uint32
	perGroup    uint32 // inodes in a group
	groupBlocks int64  // blocks in a group
	firstBlock  int64  // of the first group
	inodeSize   int64
	descSize    int64
	firstMeta   int64 // the first group of descriptors that lies with its groups
	incompat    uint32
	roCompat    uint32
	seen        int64 // blocks that files and directories have had so far
}

// Incompatible features.
const (
	featFiletype = 0x2
	featRecover  = 0x4
	featMetaBG   = 0x10
	feat64bit    = 0x80
	// What is known: those above, extents, mmp, flex_bg, ea_inode,
	// metadata_csum_seed, large_dir, inline_data, encrypt, casefold. Files
	// that are encrypted, and attributes in inodes of their own, are refused
	// where they occur.
	featKnown = featFiletype | featMetaBG | feat64bit |
		0x40 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000
)

// featSparseSuper, a read-only compatible feature, says that few groups have a
// copy of the superblock.
const featSparseSuper = 0x1

// names of incompatible features, as mke2fs has them.
var names = map[uint32]string{0x1: "compression", 0x8: "journal_dev", 0x1000: "dirdata"}

const (
	superOffset = 1024
	superMagic  = 0xef53
)

// Open reads the superblock of a file system that may be up to size bytes
// long.
func Open(r io.ReaderAt, size int64) (*FS, error) {
	sb := make([]byte, 1024)
	if size < 2*superOffset {
		return nil, ErrNone
	}
	if _, err := r.ReadAt(sb, superOffset); err != nil {
		return nil, err
	}
	if le.Uint16(sb[0x38:]) != superMagic {
		return nil, ErrNone
	}
	fs := &FS{
		r: r, inodes: le.Uint32(sb), blocks: int64(le.Uint32(sb[0x4:])), firstBlock: int64(le.Uint32(sb[0x14:])),
		groupBlocks: int64(le.Uint32(sb[0x20:])), perGroup: le.Uint32(sb[0x28:]), inodeSize: 128, descSize: 32,
		firstMeta: int64(le.Uint32(sb[0x104:])),
	}
	fs.Label, _, _ = strings.Cut(string(sb[0x78:0x88]), "\x00")
	id := sb[0x68:0x78]
	fs.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	shift := le.Uint32(sb[0x18:])
	if shift > 6 {
		return nil, fmt.Errorf("ext4: blocks of 1024 << %d bytes", shift)
	}
	fs.blockSize = 1024 << shift
	if le.Uint32(sb[0x4c:]) > 0 { // revision 0 has neither
		fs.incompat, fs.roCompat = le.Uint32(sb[0x60:]), le.Uint32(sb[0x64:])
		fs.inodeSize = int64(le.Uint16(sb[0x58:]))
	}
	if fs.incompat&feat64bit != 0 {
		fs.blocks |= int64(le.Uint32(sb[0x150:])) << 32
		fs.descSize = int64(le.Uint16(sb[0xfe:]))
	}
	return fs, fs.check(size)
}

func (fs *FS) check(size int64) error {
	if err := fs.checkFeatures(); err != nil {
		return err
	}
	powerOfTwo := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	switch {
	case fs.blocks <= 0 || fs.blocks > size/fs.blockSize:
		return fmt.Errorf("ext4: %d blocks of %d bytes in %d bytes: the image is cut off", fs.blocks, fs.blockSize, size)
	case fs.groupBlocks == 0 || fs.groupBlocks > 8*fs.blockSize*16 || fs.firstBlock >= fs.blocks:
		return fmt.Errorf("ext4: %d blocks in a group, the first at %d", fs.groupBlocks, fs.firstBlock)
	case fs.perGroup == 0 || int64(fs.perGroup) > 8*fs.blockSize || fs.inodes == 0:
		return fmt.Errorf("ext4: %d inodes in a group", fs.perGroup)
	case !powerOfTwo(fs.inodeSize) || fs.inodeSize < 128 || fs.inodeSize > fs.blockSize:
		return fmt.Errorf("ext4: inodes of %d bytes", fs.inodeSize)
	case !powerOfTwo(fs.descSize) || fs.descSize < 32 || fs.descSize > fs.blockSize:
		return fmt.Errorf("ext4: group descriptors of %d bytes", fs.descSize)
	}
	return nil
}

func (fs *FS) checkFeatures() error {
	if fs.incompat&featRecover != 0 {
		return errors.New("ext4: the journal holds changes that are not in their place: the file system was not unmounted")
	}
	for bit := uint32(1); bit != 0; bit <<= 1 {
		if fs.incompat&bit&^featKnown == 0 {
			continue
		}
		name := names[bit]
		if name == "" {
			name = fmt.Sprintf("%#x", bit)
		}
		return fmt.Errorf("ext4: feature %s is not supported", name)
	}
	return nil
}

// readBlock returns one block.
func (fs *FS) readBlock(n int64) ([]byte, error) {
	if n <= 0 || n >= fs.blocks {
		return nil, fmt.Errorf("block %d is outside of the file system", n)
	}
	b := make([]byte, fs.blockSize)
	_, err := fs.r.ReadAt(b, n*fs.blockSize)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

// take counts blocks that a file has.
func (fs *FS) take(n int64) error {
	if fs.seen += n; fs.seen > fs.blocks {
		return errors.New("files have more blocks than the file system")
	}
	return nil
}

// descriptor returns where a group's descriptor is, in bytes.
func (fs *FS) descriptor(group int64) int64 {
	perBlock := fs.blockSize / fs.descSize
	meta := group / perBlock
	if fs.incompat&featMetaBG == 0 || meta < fs.firstMeta {
		return (superOffset/fs.blockSize+1)*fs.blockSize + group*fs.descSize
	}
	// With meta_bg, a block of descriptors lies in the first of its groups,
	// behind the superblock where there is one.
	first := meta * perBlock
	block := fs.firstBlock + first*fs.groupBlocks
	if first == 0 {
		block = superOffset / fs.blockSize
	}
	if fs.hasSuper(first) {
		block++
	}
	return block*fs.blockSize + group%perBlock*fs.descSize
}

func (fs *FS) hasSuper(group int64) bool {
	if group <= 1 || fs.roCompat&featSparseSuper == 0 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}
