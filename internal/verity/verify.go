package verity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"

	"goldsmith/internal/verity/superblock"
)

// Bad is a block that is not what the root hash says.
type Bad struct {
	Tree  bool  // a block of the tree, not of the data
	Block int64 // its number, counted from the beginning of the data, or of the superblock
}

func (b Bad) String() string {
	if b.Tree {
		return fmt.Sprintf("hash tree block %d", b.Block)
	}
	return fmt.Sprintf("data block %d", b.Block)
}

// Verify checks data against its tree and the tree against the root hash. It
// returns every block that is wrong, from the root down; what lies below a
// wrong block of the tree cannot be judged and is not named. The error is for
// what cannot be read or has no superblock.
func Verify(data, tree io.ReaderAt, root Hash) ([]Bad, error) {
	sb, err := superblock.Read(tree)
	if err != nil {
		return nil, err
	}
	sizes := levels(sb.DataBlocks)
	// Before memory is taken for what the superblock says: is that much there?
	if err := readFull(tree, make([]byte, 1), Size(sb.DataBlocks*BlockSize)-1); err != nil {
		return nil, fmt.Errorf("hash tree: %w", err)
	}
	if err := readFull(data, make([]byte, 1), sb.DataBlocks*BlockSize-1); err != nil {
		return nil, err
	}
	var bad []Bad
	want, known := root[:], []bool{true} // hashes of the level that is next, and which of them to trust
	at := int64(1)
	for i := len(sizes) - 1; i >= 0; i-- {
		level := make([]byte, sizes[i]*BlockSize)
		if err := readFull(tree, level, at*BlockSize); err != nil {
			return bad, fmt.Errorf("hash tree: %w", err)
		}
		sound, err := check(bytesAt(level), sizes[i], sb.Salt, want, known)
		if err != nil {
			return bad, err
		}
		bad = append(bad, wrong(sound, known, true, at)...)
		want, known = level, sound
		at += sizes[i]
	}
	sound, err := check(data, sb.DataBlocks, sb.Salt, want, known)
	if err != nil {
		return bad, err
	}
	return append(bad, wrong(sound, known, false, 0)...), nil
}

// check compares the hashes of a level's n blocks with those of the level
// above. known tells which blocks of that one are sound; the result tells it of
// this level.
func check(level io.ReaderAt, n int64, salt, want []byte, known []bool) ([]bool, error) {
	got, err := hashAll(level, n, salt)
	if err != nil {
		return nil, err
	}
	sound := make([]bool, n)
	for i := range sound {
		at := i * sha256.Size
		sound[i] = known[i/perBlock] && bytes.Equal(got[at:at+sha256.Size], want[at:at+sha256.Size])
	}
	return sound, nil
}

// wrong names the blocks that are not sound although what vouches for them is.
func wrong(sound, known []bool, tree bool, first int64) []Bad {
	var bad []Bad
	for i, ok := range sound {
		if !ok && known[i/perBlock] {
			bad = append(bad, Bad{Tree: tree, Block: first + int64(i)})
		}
	}
	return bad
}
