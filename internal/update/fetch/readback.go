package fetch

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"goldsmith/internal/chunk"
)

// Verify reads a part back from src, where it begins at offset 0, and compares
// every chunk. The error names the first place that is different.
func (im *Image) Verify(ctx context.Context, part Part, src io.ReaderAt, progress func(done, total int64)) error {
	chunks, base, n, err := im.part(ctx, part)
	if err != nil {
		return fmt.Errorf("%s: %w", im.ref, err)
	}
	buf, zeros := make([]byte, chunk.MaxData), make([]byte, chunk.MaxData)
	var done int64
	for _, c := range chunks {
		for at := int64(0); at < c.Length; at += int64(len(buf)) {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(c.Length-at, int64(len(buf)))] // only a chunk of zeros is longer
			if _, err := src.ReadAt(b, c.Offset-base+at); err != nil {
				return fmt.Errorf("read back: %w", err)
			}
			same := bytes.Equal(b, zeros[:len(b)])
			if !c.Zeros() {
				same = chunk.SumOf(b) == c.Sum
			}
			if !same {
				return fmt.Errorf("read back: what is at byte %d is not what was written", c.Offset-base+at)
			}
		}
		if done += c.Length; progress != nil {
			progress(done, n)
		}
	}
	return nil
}
