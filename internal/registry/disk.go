package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/chunk"
	"goldsmith/internal/command"
	"goldsmith/internal/sparse"
)

// putDisk packs a raw disk into its two layers: the disk in chunks, and the
// index of them.
func (l *Layout) putDisk(ctx context.Context, path string, img Image) ([]v1.Descriptor, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	// The blob's name is known only when it is complete.
	dir, done, err := l.ingest(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	packed, raw := sha256.New(), sha256.New()
	data, err := sparse.NewReader(in)
	if err != nil {
		return nil, err
	}
	index, err := chunk.Write(ctx, io.MultiWriter(f, packed),
		io.TeeReader(command.Reader(ctx, data), raw), img.cuts()...)
	if err != nil {
		return nil, fmt.Errorf("pack %s: %w", path, err)
	}
	if sum := hex.EncodeToString(raw.Sum(nil)); index.Size() != img.Size || sum != img.SHA256 {
		return nil, fmt.Errorf("%s: has %d bytes with SHA-256 %s; expected %d bytes with %s",
			path, index.Size(), sum, img.Size, img.SHA256)
	}
	h := v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(packed.Sum(nil))}
	if err := l.take(f.Name(), h); err != nil {
		return nil, err
	}
	encoded, err := index.Encode()
	if err != nil {
		return nil, err
	}
	chunks, err := l.putBytes(encoded, ChunksType)
	chunks.Annotations = map[string]string{annotationTitle: "disk.chunks"}
	disk := v1.Descriptor{
		MediaType: DiskType, Size: index.PackedSize(), Digest: h,
		Annotations: map[string]string{annotationTitle: "disk.raw.zst"},
	}
	return []v1.Descriptor{disk, chunks}, err
}
