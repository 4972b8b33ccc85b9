package fetch

import (
	"context"
	"fmt"
	"io"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/chunk"
)

// maxGap is what is read and thrown away rather than asking once more, in
// bytes; maxRequest is where a request ends, so that no server has to keep one
// open for hours.
const (
	maxGap     = 16 << 10
	maxRequest = 64 << 20
)

// fetch reads the frames of the wanted chunks, in order, and hands each to
// take.
func (im *Image) fetch(ctx context.Context, blob v1.Descriptor, want []chunk.Chunk,
	take func(chunk.Chunk, []byte) error) error {
	for len(want) > 0 {
		err := im.retry(ctx, func() (bool, error) {
			n, err := im.request(ctx, blob, want, take)
			want = want[n:]
			return n > 0, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// request asks for the first wanted chunks that lie together and returns how
// many it brought. From a server that gives the whole blob anyway it takes
// all.
func (im *Image) request(ctx context.Context, blob v1.Descriptor, want []chunk.Chunk,
	take func(chunk.Chunk, []byte) error) (n int, err error) {
	from := want[0].PackedOffset
	to := from
	for _, c := range want {
		if c.PackedOffset-to > maxGap || to-from > maxRequest {
			break
		}
		to = c.PackedOffset + c.Packed
	}
	s, err := im.src.blob(ctx, blob.Digest, from, to-from)
	if err != nil {
		return 0, err
	}
	defer s.Close()
	if s.all {
		to = blob.Size
	}
	r := counted{s, &im.fetched}
	at := s.at
	var frame []byte
	for _, c := range want {
		if c.PackedOffset+c.Packed > to {
			break
		}
		if err := ctx.Err(); err != nil {
			return n, err
		}
		if _, err := io.CopyN(io.Discard, r, c.PackedOffset-at); err != nil {
			return n, short(err)
		}
		frame = slices.Grow(frame[:0], int(c.Packed))[:c.Packed]
		if _, err := io.ReadFull(r, frame); err != nil {
			return n, short(err)
		}
		at = c.PackedOffset + c.Packed
		if err := take(c, frame); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// short says what an early end means here.
func short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("the source ended in the middle of a chunk")
	}
	return err
}
