// Package verity makes and checks the hash trees of dm-verity.
//
// The tree lies in a place of its own, behind a superblock: first the level
// with one block, whose hash is the root hash, then the levels below it; the
// last level has the hashes of the data. Blocks have 4096 bytes, and a block's
// hash is the SHA-256 of the salt and the block. The bytes are the same as
// `veritysetup format --salt --uuid` writes.
//
// Other hashes, other block sizes and Chrome OS's older form of the tree are
// refused.
//
// Formats: https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity and the
// kernel's Documentation/admin-guide/device-mapper/verity.rst.
package verity

import (
	"crypto/sha256"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"goldsmith/internal/verity/superblock"
)

// BlockSize is that of data and of the tree, in bytes.
const BlockSize = superblock.BlockSize

// Hash is the SHA-256 of a salt and a block.
type Hash [sha256.Size]byte

const (
	perBlock = BlockSize / sha256.Size // hashes in one block of the tree
	piece    = 256 * BlockSize         // what one goroutine hashes at once
)

// Params are what a tree depends on beside the data.
type Params struct {
	Salt []byte // up to 256 bytes
	UUID [16]byte
}

// Size is the length of superblock and tree for dataSize bytes of data.
func Size(dataSize int64) int64 {
	size := int64(BlockSize)
	for _, n := range levels(dataSize / BlockSize) {
		size += n * BlockSize
	}
	return size
}

// levels are the lengths of a tree's levels in blocks, the lowest first. One
// block of data needs no tree: its hash is the root hash.
func levels(dataBlocks int64) []int64 {
	var all []int64
	for n := dataBlocks; n > 1; {
		n = (n + perBlock - 1) / perBlock
		all = append(all, n)
	}
	return all
}

// Write makes the tree of the first size bytes of data, whole blocks, and
// writes it with its superblock to w. It returns the root hash and the length
// of what it wrote in bytes. It holds the tree in memory: 1/127 of the data.
func Write(w io.WriterAt, data io.ReaderAt, size int64, p Params) (root Hash, length int64, err error) {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > superblock.MaxBlocks {
		return Hash{}, 0, fmt.Errorf("verity: %d bytes of data are not whole blocks of %d", size, BlockSize)
	}
	if len(p.Salt) > superblock.MaxSalt {
		return Hash{}, 0, fmt.Errorf("verity: a salt of %d bytes, at most %d fit", len(p.Salt), superblock.MaxSalt)
	}
	var tree [][]byte // the lowest level first
	for level, n := data, size/BlockSize; ; {
		hashes, err := hashAll(level, n, p.Salt)
		if err != nil {
			return Hash{}, 0, err
		}
		if n == 1 {
			root = Hash(hashes[:sha256.Size])
			break
		}
		tree = append(tree, hashes)
		level, n = bytesAt(hashes), int64(len(hashes)/BlockSize)
	}
	sb := superblock.Superblock{UUID: p.UUID, Salt: p.Salt, DataBlocks: size / BlockSize}
	if _, err := w.WriteAt(sb.Marshal(), 0); err != nil {
		return Hash{}, 0, err
	}
	length = BlockSize
	for i := len(tree) - 1; i >= 0; i-- {
		if _, err := w.WriteAt(tree[i], length); err != nil {
			return Hash{}, 0, err
		}
		length += int64(len(tree[i]))
	}
	return root, length, nil
}

// bytesAt is a slice to read from anywhere.
type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// hashAll returns the hashes of n blocks, padded with zeros to whole blocks.
func hashAll(r io.ReaderAt, n int64, salt []byte) ([]byte, error) {
	out := make([]byte, (n+perBlock-1)/perBlock*BlockSize)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for at := int64(0); at < n*BlockSize; at += piece {
		g.Go(func() error {
			buf := make([]byte, min(piece, n*BlockSize-at))
			if err := readFull(r, buf, at); err != nil {
				return err
			}
			h, sum := sha256.New(), out[at/BlockSize*sha256.Size:]
			for b := buf; len(b) > 0; b, sum = b[BlockSize:], sum[sha256.Size:] {
				h.Reset()
				h.Write(salt)
				h.Write(b[:BlockSize])
				h.Sum(sum[:0])
			}
			return nil
		})
	}
	return out, g.Wait()
}

func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == io.EOF || err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read block %d: %w", (at+int64(n))/BlockSize, err)
}
