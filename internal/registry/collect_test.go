package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
)

// hour is later than any grace that tests have.
const hour = time.Hour

// shared makes an image whose disk has much in common with the others.
func shared(l *Layout, dir, version string) (string, error) {
	disk := bytes.Repeat([]byte("the same in all\n"), 1<<12)
	if version[0] != 's' { // some are the same disk under another name
		disk = append(disk, version...)
	}
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		return "", err
	}
	digest, _, err := l.PutImage(context.Background(), path, Image{Name: "demo", Version: version, Arch: "amd64",
		Size: int64(len(disk)), SHA256: fmt.Sprintf("%x", sha256.Sum256(disk))})
	return digest, err
}

// Whatever is removed, every image that stays is whole, with what is attached
// to it, and nothing is left of the others.
func TestCollectProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "goldsmith-collect-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l, err := Open(filepath.Join(dir, "oci"))
		if err != nil {
			t.Fatal(err)
		}
		var images []string
		tagged := map[string]bool{}
		for i := range rapid.IntRange(1, 4).Draw(t, "images") {
			d, err := shared(l, dir, fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"s", "v"}).Draw(t, "disk"), i))
			if err != nil {
				t.Fatal(err)
			}
			images = append(images, d)
			if _, err := l.Attach(d, EvidenceType, nil, Blob{"e", EvidenceType, []byte(rapid.SampledFrom([]string{"x", d}).Draw(t, "attached"))}); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "tagged") {
				tagged[d] = true
				if err := l.Tag(d, fmt.Sprintf("t%d", i)); err != nil {
					t.Fatal(err)
				}
			}
		}
		chosen := rapid.SliceOf(rapid.SampledFrom(images)).Draw(t, "removed")
		collect := func(dry bool) *Garbage {
			g, err := l.Collect(context.Background(), func(can []string) ([]string, error) {
				for _, d := range can {
					if tagged[d] {
						t.Fatalf("%s has a tag, and could be removed", d)
					}
				}
				return chosen, nil
			}, time.Minute, time.Now().Add(hour), dry)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		said, did := collect(true), collect(false)
		if !slices.Equal(said.Images, did.Images) || said.Blobs != did.Blobs || said.Bytes != did.Bytes {
			t.Fatalf("said %+v, did %+v", said, did)
		}
		if again := collect(false); len(again.Images)+again.Blobs+again.Attached > 0 {
			t.Fatalf("once more: %+v", again)
		}
		for _, d := range images {
			refs, err := l.Referrers(d, EvidenceType)
			gone := slices.Contains(chosen, d) && !tagged[d]
			if gone != (err != nil) {
				t.Fatalf("%s: removed %v, tagged %v, %v", d, slices.Contains(chosen, d), tagged[d], err)
			}
			if gone {
				continue
			}
			if content, aerr := l.Attached(refs[0].Digest, "e"); aerr != nil || len(content) == 0 {
				t.Fatalf("%s: %v", d, aerr)
			}
			if err := l.Extract(context.Background(), d, filepath.Join(dir, "out")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is young stays, and so does everything while an image is brought here.
func TestCollectWaits(t *testing.T) {
	l, err := Open(filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	digest, err := shared(l, t.TempDir(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	all := func(images []string) ([]string, error) { return images, nil }
	if g, err := l.Collect(t.Context(), all, hour, time.Now(), false); err != nil || len(g.Images)+g.Blobs > 0 {
		t.Errorf("a young image: %+v, %v", g, err)
	}
	_, done, err := l.ingest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Collect(t.Context(), all, 0, time.Now().Add(hour), false); command.Status(err) != command.StatusBusy {
		t.Errorf("during an ingest: %v", err)
	}
	done()
	if g, err := l.Collect(t.Context(), all, 0, time.Now().Add(hour), false); err != nil || len(g.Images) != 1 || g.Images[0] != digest || g.Blobs < 4 {
		t.Errorf("then: %+v, %v", g, err)
	}
}

// Images that come while others are removed are whole.
func TestCollectConcurrently(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	const grace = time.Second // longer than storing an image takes
	removed := 0
	var collector sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			g, err := l.Collect(ctx, func(images []string) ([]string, error) { return images, nil }, grace, time.Now(), false)
			if err != nil && command.Status(err) != command.StatusBusy && ctx.Err() == nil {
				t.Error(err)
			}
			if g != nil {
				removed += len(g.Images)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	var makers sync.WaitGroup
	for i := range 3 {
		makers.Go(func() {
			own := filepath.Join(dir, fmt.Sprint(i))
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Error(err)
			}
			for n, end := 0, time.Now().Add(4*grace); time.Now().Before(end); n++ {
				// Within the grace it is whole, and can be tagged and so kept.
				d, err := shared(l, own, fmt.Sprintf("v%d.%d", i, n%3))
				if err == nil {
					err = l.Tag(d, fmt.Sprintf("t%d", i))
				}
				if err != nil {
					if !strings.Contains(err.Error(), "removed meanwhile") && !strings.Contains(err.Error(), "no image") {
						t.Error(err)
					}
					continue // a loaded machine: it took longer than that
				}
				if err := l.Extract(ctx, d, filepath.Join(own, "out")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	makers.Wait()
	stop()
	collector.Wait()
	t.Logf("%d images were removed meanwhile", removed)
}

// What is attached to an image that is not here goes when it is old: somebody may
// be about to bring the image.
func TestOrphans(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := shared(l, dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Attach(d, EvidenceType, nil, Blob{"e", EvidenceType, []byte("alone")}); err != nil {
		t.Fatal(err)
	}
	if err := l.update(func(im *v1.IndexManifest) error {
		im.Manifests = slices.DeleteFunc(im.Manifests, func(m v1.Descriptor) bool { return m.Digest.String() == d })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		later    time.Duration
		attached int
	}{{0, 0}, {2 * hour, 1}, {2 * hour, 0}} {
		g, err := l.Collect(t.Context(), func([]string) ([]string, error) { return nil, nil }, hour, time.Now().Add(c.later), false)
		if err != nil || g.Attached != c.attached {
			t.Errorf("%s later: %+v, %v", c.later, g, err)
		}
	}
	if blobs, err := filepath.Glob(filepath.Join(l.Dir(), "blobs/sha256/*")); err != nil || len(blobs) != 0 {
		t.Errorf("blobs are left: %q, %v", blobs, err)
	}
}

// What a tagged index lists stays, also where an index lists that index, and
// where nothing else lists it.
func TestCollectListed(t *testing.T) {
	dir := t.TempDir()
	l, err := Open(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for _, version := range []string{"listed", "free", "alone"} {
		d, err := shared(l, dir, version)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, d)
	}
	im, err := l.index()
	if err != nil {
		t.Fatal(err)
	}
	entry := func(digest string) v1.Descriptor {
		i := slices.IndexFunc(im.Manifests, func(d v1.Descriptor) bool { return d.Digest.String() == digest })
		return im.Manifests[i]
	}
	index := func(of ...v1.Descriptor) v1.Descriptor {
		b, err := json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: of})
		if err != nil {
			t.Fatal(err)
		}
		h, n, err := v1.SHA256(bytes.NewReader(b))
		if err == nil {
			err = os.WriteFile(l.blobPath(h), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: types.OCIImageIndex, Digest: h, Size: n}
	}
	top := index(index(entry(images[0]), entry(images[2])))
	top.Annotations = map[string]string{annotationRef: "v1"}
	im.Manifests = slices.DeleteFunc(append(im.Manifests, top), func(d v1.Descriptor) bool { return d.Digest.String() == images[2] })
	if err := l.write(im); err != nil {
		t.Fatal(err)
	}
	g, err := l.Collect(t.Context(), func(can []string) ([]string, error) { return can, nil }, time.Minute, time.Now().Add(hour), false)
	if err != nil || !slices.Equal(g.Images, images[1:2]) {
		t.Fatalf("%+v, %v; want %s", g, err, images[1])
	}
	for _, d := range []string{images[0], images[2]} {
		h, err := v1.NewHash(d)
		if err != nil {
			t.Fatal(err)
		}
		m, err := l.manifest(h)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range append(m.Layers, m.Config) {
			if _, err := os.Stat(l.blobPath(b.Digest)); err != nil {
				t.Error(err)
			}
		}
	}
}
