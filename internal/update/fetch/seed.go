package fetch

import (
	"cmp"
	"context"
	"io"
	"reflect"
	"slices"

	"goldsmith/internal/chunk"
)

// Seed is something that may hold chunks of the image: a slot of the disk, a
// file.
type Seed struct {
	io.ReaderAt
	Size int64 // in bytes
}

// found is where a chunk is in a seed.
type found struct {
	io.ReaderAt
	off int64
}

// search returns where in the seeds the chunks are that are wanted. Small seeds
// are cut first: a kernel image costs less than a slot, and may be enough.
func (w *writer) search(ctx context.Context, seeds []Seed) (map[chunk.Sum]found, error) {
	seeds = slices.Clone(seeds)
	slices.SortStableFunc(seeds, func(a, b Seed) int { return cmp.Compare(a.Size, b.Size) })
	have := map[chunk.Sum]found{}
	for _, s := range seeds {
		if len(have) == len(w.places) {
			break
		}
		offsets, err := w.im.cut(ctx, s)
		if err != nil {
			return nil, err
		}
		for sum := range w.places {
			if off, ok := offsets[sum]; ok {
				have[sum] = found{s, off}
			}
		}
	}
	return have, nil
}

// cut returns where in a seed chunks of any part are. A seed is cut once for
// all parts; what is read from it is verified again, for it may have changed
// since.
func (im *Image) cut(ctx context.Context, s Seed) (map[chunk.Sum]int64, error) {
	keep := reflect.TypeOf(s.ReaderAt).Comparable()
	if keep {
		if offsets, ok := im.seeds[s]; ok {
			return offsets, nil
		}
	}
	offsets := map[chunk.Sum]int64{}
	// A seed that cannot be read to its end is one with less in it.
	_ = chunk.Find(ctx, io.NewSectionReader(s, 0, s.Size), func(sum chunk.Sum, off, length int64) {
		if im.lengths[sum] == length {
			offsets[sum] = off
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if keep {
		im.seeds[s] = offsets
	}
	return offsets, nil
}
