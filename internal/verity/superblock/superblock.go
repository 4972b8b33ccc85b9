// Package superblock reads and writes what lies before a hash tree of
// dm-verity: what it covers, and how it was made. It is apart from the tree
// itself because the initramfs needs no more, and hashing would make that
// larger.
//
// Format: https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity.
package superblock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// BlockSize is that of data and of the tree, in bytes.
const BlockSize = 4096

const (
	MaxSalt   = 256     // bytes: the format's room for a salt
	MaxBlocks = 1 << 36 // of data; 256 TiB are far more than any root has
)

// Superblock is what the beginning of a tree says. Nothing vouches for it but
// the root hash: with another salt or size, the tree has another one.
type Superblock struct {
	UUID       [16]byte
	Salt       []byte // up to MaxSalt bytes, which come before each block
	DataBlocks int64  // how many blocks of data the tree covers
}

var le = binary.LittleEndian

// Marshal renders the superblock with the padding up to the tree.
func (s *Superblock) Marshal() []byte {
	b := make([]byte, BlockSize)
	copy(b, "verity")
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // the salt comes before the block
	copy(b[16:], s.UUID[:])
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], uint64(s.DataBlocks))
	le.PutUint16(b[80:], uint16(len(s.Salt)))
	copy(b[88:], s.Salt)
	return b
}

// Read reads the beginning of a tree.
func Read(tree io.ReaderAt) (*Superblock, error) {
	b := make([]byte, 512)
	if n, err := tree.ReadAt(b, 0); n < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("dm-verity superblock: %w", err)
	}
	algorithm, _, _ := strings.Cut(string(b[32:64]), "\x00")
	salt, blocks := int(le.Uint16(b[80:])), le.Uint64(b[72:])
	switch {
	case string(b[:8]) != "verity\x00\x00":
		return nil, errors.New("no dm-verity superblock")
	case le.Uint32(b[8:]) != 1 || le.Uint32(b[12:]) != 1:
		return nil, fmt.Errorf("dm-verity version %d, hash type %d: want 1 and 1", le.Uint32(b[8:]), le.Uint32(b[12:]))
	case algorithm != "sha256":
		return nil, fmt.Errorf("dm-verity hash %q: want sha256", algorithm)
	case le.Uint32(b[64:]) != BlockSize || le.Uint32(b[68:]) != BlockSize:
		data, hash := le.Uint32(b[64:]), le.Uint32(b[68:])
		return nil, fmt.Errorf("dm-verity blocks of %d and %d bytes: want %d", data, hash, BlockSize)
	case salt > MaxSalt:
		return nil, fmt.Errorf("dm-verity salt of %d bytes: at most %d are allowed", salt, MaxSalt)
	case blocks == 0 || blocks > MaxBlocks:
		return nil, fmt.Errorf("dm-verity over %d blocks", blocks)
	}
	s := &Superblock{DataBlocks: int64(blocks)}
	s.UUID = [16]byte(b[16:32])
	s.Salt = b[88 : 88+salt]
	return s, nil
}
