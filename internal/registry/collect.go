package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// Garbage is what a collection removed, or would remove.
type Garbage struct {
	Images   []string `json:"images,omitempty"`   // digests, in the order they came
	Attached int      `json:"attached,omitempty"` // what was attached to them
	Blobs    int      `json:"blobs"`
	Bytes    int64    `json:"bytes"`
}

// Age returns how long ago an image was stored, or found to be there already.
func (l *Layout) Age(digest string, now time.Time) (time.Duration, error) {
	h, err := v1.NewHash(digest)
	if err != nil {
		return 0, err
	}
	fi, err := os.Stat(l.blobPath(h))
	if err != nil {
		return 0, err
	}
	return now.Sub(fi.ModTime()), nil
}

// Collect removes images, what is attached to them or to what is not here, and
// all blobs that nothing else in the layout needs. choose is given the digests of all images without a
// tag and returns those of them to remove; it is called while nobody else can change
// the layout. What is younger than grace stays: somebody may be about to list
// it. So does everything while an image is being brought here, which is a busy
// error. With dry nothing is removed.
func (l *Layout) Collect(ctx context.Context, choose func(images []string) ([]string, error), grace time.Duration, now time.Time, dry bool) (*Garbage, error) {
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.quiet(); err != nil {
		return nil, err
	}
	im, err := l.index()
	if err != nil {
		return nil, err
	}
	can, err := l.untagged(im, grace, now)
	if err != nil {
		return nil, err
	}
	removed, err := choose(slices.Clone(can))
	if err != nil {
		return nil, err
	}
	removed = slices.DeleteFunc(slices.Clone(removed), func(d string) bool { return !slices.Contains(can, d) })
	g, kept := &Garbage{}, []v1.Descriptor{}
	used, here := map[string]bool{}, map[v1.Hash]bool{}
	for _, d := range im.Manifests {
		here[d.Digest] = !slices.Contains(removed, d.Digest.String())
	}
	for _, d := range im.Manifests {
		m, err := l.manifest(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("nothing is removed while this cannot be read: %w", err)
		}
		switch {
		case m.ArtifactType == ImageType && slices.Contains(removed, d.Digest.String()):
			g.Images = append(g.Images, d.Digest.String())
			continue
		case m.Subject != nil && slices.Contains(removed, m.Subject.Digest.String()), m.Subject != nil && !here[m.Subject.Digest] && l.older(d, grace, now):
			g.Attached++
			continue
		}
		kept = append(kept, d)
		for _, b := range append([]v1.Descriptor{{Digest: d.Digest}, m.Config}, m.Layers...) {
			used[b.Digest.Hex] = true
		}
		if err := l.useListed(d, removed, used); err != nil {
			return nil, err
		}
	}
	if im.Manifests = kept; !dry && len(g.Images)+g.Attached > 0 {
		if err := l.write(im); err != nil {
			return nil, err
		}
	}
	return g, l.removeBlobs(ctx, g, used, grace, now, dry)
}

// older tells whether a manifest was stored longer than grace ago.
func (l *Layout) older(d v1.Descriptor, grace time.Duration, now time.Time) bool {
	age, err := l.Age(d.Digest.String(), now)
	return err == nil && age > grace
}

// untagged are the images that no tag names, nor an index that has one, and that
// are older than grace.
func (l *Layout) untagged(im *v1.IndexManifest, grace time.Duration, now time.Time) (out []string, err error) {
	tagged := map[v1.Hash]bool{}
	for _, d := range im.Manifests {
		if d.Annotations[annotationRef] == "" {
			continue
		}
		tagged[d.Digest] = true
		if err := l.listed(d, tagged); err != nil {
			return nil, err
		}
	}
	for _, d := range im.Manifests {
		digest := d.Digest.String()
		if l.artifactType(d) == ImageType && !tagged[d.Digest] && l.older(d, grace, now) && !slices.Contains(out, digest) {
			out = append(out, digest)
		}
	}
	return out, nil
}

// listed adds what an index lists to found, with what the indexes among that
// list; of what is no index, nothing. What is not here is left out.
func (l *Layout) listed(d v1.Descriptor, found map[v1.Hash]bool) error {
	if !d.MediaType.IsIndex() {
		return nil
	}
	b, err := l.bytes(d.Digest, MaxManifest)
	if err != nil {
		return fmt.Errorf("nothing is removed while this cannot be read: %w", err)
	}
	im, err := v1.ParseIndexManifest(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("nothing is removed while this cannot be read: index %s: %w", d.Digest, err)
	}
	for _, m := range im.Manifests {
		if found[m.Digest] {
			continue
		}
		if _, err := os.Stat(l.blobPath(m.Digest)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		found[m.Digest] = true
		if err := l.listed(m, found); err != nil {
			return err
		}
	}
	return nil
}

// useListed adds the blobs of what an index lists to used, but for what is
// removed.
func (l *Layout) useListed(d v1.Descriptor, removed []string, used map[string]bool) error {
	found := map[v1.Hash]bool{}
	if err := l.listed(d, found); err != nil {
		return err
	}
	for h := range found {
		if slices.Contains(removed, h.String()) {
			continue
		}
		m, err := l.manifest(h)
		if err != nil {
			return fmt.Errorf("nothing is removed while this cannot be read: %w", err)
		}
		for _, b := range append([]v1.Descriptor{{Digest: h}, m.Config}, m.Layers...) {
			used[b.Digest.Hex] = true
		}
	}
	return nil
}

// quiet is a busy error while somebody brings an image here; the layout is
// locked.
func (l *Layout) quiet() error {
	l.sweep()
	found, err := filepath.Glob(filepath.Join(l.dir, ".ingest-*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if f, err := filelock.TryDir(path, filelock.Exclusive); err == nil {
			_ = f.Close()
		} else if errors.Is(err, filelock.ErrLocked) {
			return command.Busy(fmt.Errorf("%s: another process is bringing an image here", l.dir), "try again when it is done")
		}
	}
	return nil
}

// removeBlobs removes what is not used and not younger than grace: that of the
// images, and what processes left that died.
func (l *Layout) removeBlobs(ctx context.Context, g *Garbage, used map[string]bool, grace time.Duration, now time.Time, dry bool) error {
	dir := filepath.Join(l.dir, "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if used[e.Name()] || !fi.Mode().IsRegular() || now.Sub(fi.ModTime()) <= grace {
			continue
		}
		if !dry {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		g.Blobs++
		g.Bytes += fi.Size()
	}
	return nil
}

// freshen says that a blob which was there already is needed again, so that no
// collection takes it before it is listed. It is an error if one just has.
func (l *Layout) freshen(h v1.Hash) error {
	unlock, err := l.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	now := time.Now()
	return os.Chtimes(l.blobPath(h), now, now)
}

// claim is freshen for an image that was found in the index; false when it is
// not there any more.
func (l *Layout) claim(h v1.Hash) bool {
	if l.freshen(h) != nil {
		return false
	}
	images, err := l.List() // no collection takes what is fresh
	return err == nil && slices.Contains(images, h.String())
}
