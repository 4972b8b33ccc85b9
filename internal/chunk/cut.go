package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"slices"
)

// Lengths of a chunk of data, in bytes. The average is what content-defined
// cutting aims at.
const (
	minData     = 16 << 10
	averageData = 64 << 10
	MaxData     = 256 << 10
)

// MaxZeros is the longest chunk of zeros, in bytes.
const MaxZeros = 1 << 30

const (
	zeroBlock = 4096     // zeros are looked for in whole blocks, counted from the last forced cut
	zeroRun   = 64 << 10 // shorter runs of zero blocks are data
)

// Masks of FastCDC's two phases: before the average length a cut is four times
// less likely than 1 in 64 Ki, behind it four times more. The upper bits of the
// hash depend on the most bytes.
const (
	maskBefore = (1<<18 - 1) << 46
	maskBehind = (1<<14 - 1) << 50
)

// gear is the table of the rolling hash: the first 8 bytes of the SHA-256 of
// "goldsmith chunk" and the index as one byte, big-endian. It is part of the
// format: another table cuts elsewhere and finds nothing in older images.
var gear = func() (t [256]uint64) {
	for i := range t {
		sum := sha256.Sum256(append([]byte("goldsmith chunk"), byte(i)))
		t[i] = binary.BigEndian.Uint64(sum[:8])
	}
	return t
}()

// cut returns the length of the first chunk of data, which holds MaxData bytes
// or all there are before a forced cut. It is FastCDC with normalised chunking
// (Xia et al., USENIX ATC 2016, algorithm 2). A library that does the same
// changes a table for all when a reader is made, and copies what it reads.
func cut(data []byte) int {
	n := min(len(data), MaxData)
	if n <= minData {
		return n
	}
	var h uint64
	i := minData
	for _, b := range data[minData:min(n, averageData)] {
		h = h<<1 + gear[b]
		i++
		if h&maskBefore == 0 {
			return i
		}
	}
	for _, b := range data[i:n] {
		h = h<<1 + gear[b]
		i++
		if h&maskBehind == 0 {
			return i
		}
	}
	return n
}

// piece is what a cutter found next: data, or that many zeros.
type piece struct {
	off   int64
	data  []byte // valid until the next piece; nil for zeros
	zeros int64
}

// cutter takes a stream apart. Where it cuts depends on the bytes since the
// last forced cut and on nothing else, least of all on how reads come.
type cutter struct {
	r     io.Reader
	cuts  []int64 // forced, ascending, those behind pos
	buf   []byte
	have  []byte // what is read and not handed out, in buf
	pos   int64  // of have in the stream
	start int64  // of the last forced cut
	eof   bool
}

const bufferSize = 4 << 20

func newCutter(r io.Reader, cuts []int64) *cutter {
	cuts = slices.Clone(cuts)
	slices.Sort(cuts)
	return &cutter{r: r, cuts: cuts, buf: make([]byte, bufferSize)}
}

// next returns io.EOF behind the last piece.
func (c *cutter) next() (piece, error) {
	for len(c.cuts) > 0 && c.cuts[0] <= c.pos {
		c.start = max(c.start, c.cuts[0])
		c.cuts = c.cuts[1:]
	}
	if err := c.fill(MaxData + zeroRun); err != nil {
		return piece{}, err
	}
	if len(c.have) == 0 {
		return piece{}, io.EOF
	}
	window := c.window()
	at := c.findZeros(window[:min(len(window), MaxData+zeroRun)])
	if at == 0 {
		return c.zeros()
	}
	n := cut(window[:at])
	p := piece{off: c.pos, data: window[:n]}
	c.drop(n)
	return p, nil
}

// window is what is there before the next forced cut.
func (c *cutter) window() []byte {
	if len(c.cuts) > 0 {
		return c.have[:min(int64(len(c.have)), c.cuts[0]-c.pos)]
	}
	return c.have
}

// findZeros returns where the first long run of zero blocks starts in data, or
// the length of data.
func (c *cutter) findZeros(data []byte) int {
	begin := -1
	for i := int((zeroBlock - (c.pos-c.start)%zeroBlock) % zeroBlock); i+zeroBlock <= len(data); i += zeroBlock {
		switch {
		case !isZero(data[i : i+zeroBlock]):
			begin = -1
		case begin < 0:
			begin = i
		}
		if begin >= 0 && i+zeroBlock-begin >= zeroRun {
			return begin
		}
	}
	return len(data)
}

// zeros takes the run of zero blocks that starts at pos.
func (c *cutter) zeros() (piece, error) {
	p := piece{off: c.pos}
	for p.zeros < MaxZeros {
		if err := c.fill(zeroBlock); err != nil {
			return p, err
		}
		window := c.window()
		window = window[:min(int64(len(window)), MaxZeros-p.zeros)]
		n := 0
		for n+zeroBlock <= len(window) && isZero(window[n:n+zeroBlock]) {
			n += zeroBlock
		}
		if n == 0 {
			break
		}
		p.zeros += int64(n)
		c.drop(n)
	}
	return p, nil
}

func (c *cutter) drop(n int) {
	c.have = c.have[n:]
	c.pos += int64(n)
}

// fill reads until n bytes are there, or all that is left of the stream.
func (c *cutter) fill(n int) error {
	if len(c.have) >= n || c.eof {
		return nil
	}
	kept := copy(c.buf, c.have)
	got, err := io.ReadFull(c.r, c.buf[kept:])
	c.have = c.buf[:kept+got]
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.eof, err = true, nil
	}
	return err
}

var zeroes [zeroBlock]byte

func isZero(block []byte) bool { return bytes.Equal(block, zeroes[:]) }
