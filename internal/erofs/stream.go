package erofs

import (
	"crypto/sha256"
	"hash"
	"io"
)

// stream writes forward through one buffer and hashes what it writes. After
// an error it does nothing and keeps the error.
type stream struct {
	w   io.WriterAt
	sum hash.Hash
	off int64 // where the next byte goes, buffered ones included
	buf []byte
	err error
}

const bufferSize = 1 << 20

func newStream(w io.WriterAt) *stream {
	return &stream{w: w, sum: sha256.New(), buf: make([]byte, 0, bufferSize)}
}

func (s *stream) flush() {
	if s.err == nil && len(s.buf) > 0 {
		s.sum.Write(s.buf)
		_, s.err = s.w.WriteAt(s.buf, s.off-int64(len(s.buf)))
	}
	s.buf = s.buf[:0]
}

func (s *stream) write(b []byte) {
	for len(b) > 0 && s.err == nil {
		n := copy(s.buf[len(s.buf):cap(s.buf)], b)
		s.advance(n)
		b = b[n:]
	}
}

// advance takes n bytes that were put behind the buffer's end.
func (s *stream) advance(n int) {
	s.buf = s.buf[:len(s.buf)+n]
	s.off += int64(n)
	if len(s.buf) == cap(s.buf) {
		s.flush()
	}
}

// copyFrom reads r to its end, straight into the buffer.
func (s *stream) copyFrom(r io.Reader) (int64, error) {
	var total int64
	for s.err == nil {
		n, err := r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.advance(n)
		total += int64(n)
		if err == io.EOF {
			break
		}
		if err != nil {
			return total, err
		}
	}
	return total, s.err
}

var zeros [BlockSize]byte

// padTo writes zeros up to offset off.
func (s *stream) padTo(off int64) {
	for s.off < off && s.err == nil {
		s.write(zeros[:min(off-s.off, BlockSize)])
	}
}

// pad writes zeros up to the next multiple of unit.
func (s *stream) pad(unit int64) { s.padTo((s.off + unit - 1) / unit * unit) }

func (s *stream) finish() (sum [32]byte, err error) {
	s.flush()
	s.sum.Sum(sum[:0])
	return sum, s.err
}
