package chunk

import (
	"context"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Find cuts r as the content of a partition is cut, and calls found for every
// chunk of data in it, with its offset and length in r. It hashes on all
// processors; the calls come one at a time and in no order. An error of
// reading, or the end of ctx, ends it.
func Find(ctx context.Context, r io.Reader, found func(sum Sum, off, length int64)) error {
	workers := runtime.GOMAXPROCS(0)
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan piece)
	free := make(chan []byte, 2*workers)
	for range cap(free) {
		free <- make([]byte, MaxData)
	}
	g.Go(func() error {
		defer close(work)
		return findAll(ctx, newCutter(r, nil), work, free)
	})
	var mu sync.Mutex // one call of found at a time
	for range workers {
		g.Go(func() error {
			for p := range work {
				sum := SumOf(p.data)
				mu.Lock()
				found(sum, p.off, int64(len(p.data)))
				mu.Unlock()
				free <- p.data[:MaxData]
			}
			return nil
		})
	}
	return g.Wait()
}

func findAll(ctx context.Context, c *cutter, work chan<- piece, free <-chan []byte) error {
	for {
		p, err := c.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if p.zeros > 0 {
			continue
		}
		select {
		case buf := <-free:
			p.data = buf[:copy(buf, p.data)]
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case work <- p:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
