// Package fetch brings an image to a machine: its description and signatures,
// and of its disk the chunks that the machine does not have.
//
// An image is named SOURCE@sha256:…, by the digest of its OCI manifest. SOURCE
// is oci:DIRECTORY (an OCI image layout), http://… or https://… (a layout
// behind a URL, plain files), or HOST/REPOSITORY (a registry). The digest
// proves the manifest, the manifest the description and the chunk index, and
// the index every chunk. Nothing is written before it is verified, all reads
// are bounded, and a server that stalls, or gives too little, too much or other
// bytes, is asked again from there and then given up.
//
// Whether an image may be run is not asked here: package trust does that, with
// what [Image.Envelopes] returns.
package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/chunk"
	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/release"
	"goldsmith/internal/trust"
)

// Image is an image in its source. Its methods may be called by one goroutine
// at a time.
type Image struct {
	ref         string
	src         source
	timing      timing
	digest      v1.Hash
	disk, index v1.Descriptor
	release     *release.Release
	chunks      chunk.Index                  // nil until it was needed
	lengths     map[chunk.Sum]int64          // of all chunks
	seeds       map[Seed]map[chunk.Sum]int64 // where chunks are in seeds that were cut
	fetched     atomic.Int64
}

// Open reads and verifies an image's manifest and description. ref is
// SOURCE@sha256:…. The caller closes the image. Where a source is asked again, for
// half a minute, say is told why; it may be nil.
func Open(ctx context.Context, ref string, say func(format string, args ...any)) (*Image, error) {
	t := usual
	t.say = say
	return open(ctx, ref, t)
}

func open(ctx context.Context, ref string, t timing) (*Image, error) {
	i := strings.LastIndex(ref, "@")
	digest, err := v1.NewHash(ref[i+1:])
	if i <= 0 || err != nil || digest.Algorithm != "sha256" {
		return nil, command.Usage(ref+": no image by its digest", "write SOURCE@sha256:…")
	}
	im := &Image{ref: ref, timing: t, digest: digest}
	err = im.retry(ctx, func() (_ bool, err error) {
		im.src, err = openSource(ctx, ref[:i], t)
		return false, err
	})
	if err != nil {
		return nil, err
	}
	if err := im.describe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", ref, err), im.Close())
	}
	return im, nil
}

// Close lets go of the source. The image's methods must not be called any more.
func (im *Image) Close() error { return im.src.close() }

func (im *Image) describe(ctx context.Context) error {
	m, err := im.manifest(ctx, im.digest)
	if err != nil {
		return err
	}
	if m.ArtifactType != registry.ImageType || m.Config.MediaType != release.MediaType || len(m.Layers) != 2 ||
		m.Layers[0].MediaType != registry.DiskType || m.Layers[1].MediaType != registry.ChunksType {
		return errors.New("it is no image with a release description and a chunk index")
	}
	im.disk, im.index = m.Layers[0], m.Layers[1]
	b, err := im.small(ctx, m.Config, release.MaxSize)
	if err != nil {
		return err
	}
	im.release, err = release.Parse(b)
	return err
}

// Release is the image's description.
func (im *Image) Release() release.Release { return *im.release }

// Digest is that of the image's OCI manifest, "sha256:…".
func (im *Image) Digest() string { return im.digest.String() }

// Fetched is how many bytes of content came from the source so far, headers
// aside.
func (im *Image) Fetched() int64 { return im.fetched.Load() }

// Envelopes returns the signatures that are attached to the image, the last
// attached first. They are whole but not checked.
func (im *Image) Envelopes(ctx context.Context) ([][]byte, error) {
	var found []v1.Hash
	err := im.retry(ctx, func() (_ bool, err error) {
		found, err = im.src.signatures(ctx, im.digest)
		return false, err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: signatures: %w", im.ref, err)
	}
	var out [][]byte
	for _, h := range found {
		e, ferr := im.envelope(ctx, h)
		if err = errors.Join(err, ferr); e != nil {
			out = append(out, e)
		}
	}
	if len(out) > 0 {
		return out, nil // one that cannot be read is no reason to know none
	}
	return nil, err
}

// envelope reads a signature; nil if it is none of this image.
func (im *Image) envelope(ctx context.Context, h v1.Hash) ([]byte, error) {
	m, err := im.manifest(ctx, h)
	if err != nil {
		return nil, fmt.Errorf("%s: signature: %w", im.ref, err)
	}
	if m.Subject == nil || m.Subject.Digest != im.digest || m.ArtifactType != registry.SignatureType ||
		len(m.Layers) != 1 {
		return nil, nil
	}
	e, err := im.small(ctx, m.Layers[0], trust.MaxEnvelope)
	if err != nil {
		return nil, fmt.Errorf("%s: signature: %w", im.ref, err)
	}
	return e, nil
}

func (im *Image) manifest(ctx context.Context, h v1.Hash) (*v1.Manifest, error) {
	b, err := im.verified(ctx, h, registry.MaxManifest, func() (*stream, error) { return im.src.manifest(ctx, h) })
	if err != nil {
		return nil, err
	}
	m, err := v1.ParseManifest(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", h, err)
	}
	return m, nil
}

// small reads a whole blob of at most limit bytes.
func (im *Image) small(ctx context.Context, d v1.Descriptor, limit int64) ([]byte, error) {
	if d.Size <= 0 || d.Size > limit || d.Digest.Algorithm != "sha256" {
		return nil, fmt.Errorf("blob %s of %d bytes; at most %d are read", d.Digest, d.Size, limit)
	}
	return im.verified(ctx, d.Digest, d.Size, func() (*stream, error) { return im.src.blob(ctx, d.Digest, 0, d.Size) })
}

// verified reads what open gives, at most limit bytes, and compares it with its
// digest. It tries again as long as that may help.
func (im *Image) verified(ctx context.Context, h v1.Hash, limit int64,
	open func() (*stream, error)) (b []byte, err error) {
	err = im.retry(ctx, func() (bool, error) {
		s, err := open()
		if err != nil {
			return false, err
		}
		defer s.Close()
		if b, err = readAll(counted{s, &im.fetched}, limit); err != nil {
			return false, fmt.Errorf("%s: %w", h, err)
		}
		if got, _, _ := v1.SHA256(bytes.NewReader(b)); got != h {
			return false, fmt.Errorf("%s: its content is %s", h, got)
		}
		return true, nil
	})
	return b, err
}

// retry calls try until it is done without an error. It gives up on an error
// that another try cannot mend, and after some tries in a row that brought
// nothing of use.
func (im *Image) retry(ctx context.Context, try func() (progress bool, err error)) error {
	pause := im.timing.pause
	for failed := 0; ; {
		progress, err := try()
		if err == nil {
			return nil
		}
		if progress {
			failed, pause = 0, im.timing.pause
		}
		failed++
		if _, stop := errors.AsType[permanent](err); stop || ctx.Err() != nil || failed >= im.timing.tries {
			return err
		}
		if im.timing.say != nil {
			im.timing.say("%v: asked again in %s", err, pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause *= 2
	}
}

// counted counts what is read.
type counted struct {
	io.Reader
	n *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}
