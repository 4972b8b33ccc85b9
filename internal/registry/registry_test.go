package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/chunk"
	"goldsmith/internal/release"
	"goldsmith/internal/testenv"
)

// makeDisk writes a small raw disk with data and holes and describes it.
func makeDisk(t *testing.T) (string, Image) {
	t.Helper()
	raw := make([]byte, 1<<20)
	copy(raw[300<<10:], bytes.Repeat([]byte("goldsmith "), 5000))
	copy(raw[len(raw)-100:], "the end")
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	hash := hex.EncodeToString(sum[:])
	return path, Image{
		Name: "t", Version: "1", Arch: "amd64", Elements: []string{"a", "b"}, Size: int64(len(raw)), SHA256: hash,
		Root: &release.Root{Offset: 256 << 10, Size: 128 << 10, RootHash: hash, Salt: hash,
			UUID: "01234567-89ab-cdef-0123-456789abcdef"},
		UKI: &release.UKI{ID: "t_1", Offset: 4096, Size: 5000, SHA256: hash},
	}
}

func open(t *testing.T) *Layout {
	t.Helper()
	l, err := Open(filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func put(t *testing.T, l *Layout) (string, string, Image) {
	t.Helper()
	path, img := makeDisk(t)
	digest, existed, err := l.PutImage(context.Background(), path, img)
	if err != nil || existed {
		t.Fatalf("PutImage = %s, %v, %v", digest, existed, err)
	}
	return digest, path, img
}

func TestPutAndExtract(t *testing.T) {
	l := open(t)
	digest, path, want := put(t, l)
	again, existed, err := l.PutImage(context.Background(), path, want)
	if again != digest || !existed || err != nil {
		t.Errorf("second PutImage = %s, %v, %v; want %s, true", again, existed, err, digest)
	}
	if other, _, _ := put(t, open(t)); other != digest {
		t.Errorf("another layout gives %s for the same disk; want %s", other, digest)
	}
	want.Digest = digest
	got, err := l.Image(digest)
	if d := cmp.Diff(&want, got); d != "" || err != nil {
		t.Errorf("Image (-want +got): %v\n%s", err, d)
	}
	out := filepath.Join(t.TempDir(), "out.raw")
	if err := l.Extract(context.Background(), digest, out); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(path)
	b, _ := os.ReadFile(out)
	if !bytes.Equal(a, b) {
		t.Error("the extracted disk differs")
	}
}

// The index is that of the disk, and root and kernel image are whole chunks.
func TestChunksOfAnImage(t *testing.T) {
	l := open(t)
	digest, path, img := put(t, l)
	h, err := l.Resolve(digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := l.manifest(h)
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.bytes(m.Layers[1].Digest, chunk.MaxIndex)
	if err != nil {
		t.Fatal(err)
	}
	index, err := chunk.Parse(b)
	if err != nil || index.Size() != img.Size || index.PackedSize() != m.Layers[0].Size {
		t.Fatalf("the index describes %d bytes in %d (%v)", index.Size(), index.PackedSize(), err)
	}
	for _, r := range [][2]int64{{img.Root.Offset, img.Root.Size}, {img.UKI.Offset, img.UKI.Size}} {
		if _, err := index.Range(r[0], r[1]); err != nil {
			t.Error(err)
		}
	}
	testenv.Need(t, "zstd")
	got, err := exec.Command("zstd", "-dcq", "--format=zstd", l.blobPath(m.Layers[0].Digest)).Output()
	want, _ := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("zstd -d gives another disk (%v)", err)
	}
}

// Disks have gigabytes of zeros in one chunk.
func TestLargeHole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	const size = 1<<30 + 5<<20
	if err := errors.Join(os.WriteFile(path, []byte("start"), 0o644), os.Truncate(path, size)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	_, _ = sum.Write([]byte("start"))
	for left := int64(size - 5); left > 0; {
		n, _ := sum.Write(make([]byte, min(left, 1<<20)))
		left -= int64(n)
	}
	img := Image{Name: "t", Version: "1", Arch: "amd64", Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}
	l := open(t)
	digest, _, err := l.PutImage(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Extract(t.Context(), digest, path+".copy"); err != nil {
		t.Error(err)
	}
}

// Images from before there were release descriptions are read as ever.
func TestOldImage(t *testing.T) {
	l := open(t)
	path, img := makeDisk(t)
	raw, _ := os.ReadFile(path)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	layer, err := l.putBytes(z.EncodeAll(raw, nil), DiskType)
	if err != nil {
		t.Fatal(err)
	}
	config, err := l.putBytes([]byte("{}"), EmptyType)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.putManifest(&v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, ArtifactType: ImageType,
		Config: config, Layers: []v1.Descriptor{layer}, Annotations: img.annotations(),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := l.Image(h.String())
	want := Image{Digest: h.String(), Name: "t", Version: "1", Elements: img.Elements, Size: img.Size,
		SHA256: img.SHA256}
	if d := cmp.Diff(&want, got); d != "" || err != nil {
		t.Errorf("Image (-want +got): %v\n%s", err, d)
	}
	if err := l.Extract(t.Context(), h.String(), path+".copy"); err != nil {
		t.Error(err)
	}
	again, existed, err := l.PutImage(t.Context(), path, img)
	if again == h.String() || existed || err != nil {
		t.Errorf("stored anew it is %s, %v, %v; want one with a description", again, existed, err)
	}
}

func TestWrongDiskIsRefused(t *testing.T) {
	l := open(t)
	path, img := makeDisk(t)
	img.SHA256 = strings.Repeat("0", 64)
	if _, _, err := l.PutImage(context.Background(), path, img); err == nil ||
		!strings.Contains(err.Error(), "expected") {
		t.Errorf("a disk with another digest: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(l.Dir(), "blobs", "*disk*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A blob, once changed, is never used: not the disk, not a manifest.
func TestDamageIsNoticed(t *testing.T) {
	for _, mediaType := range []string{"disk", "manifest"} {
		l := open(t)
		digest, _, _ := put(t, l)
		h, err := l.Resolve(digest)
		if err != nil {
			t.Fatal(err)
		}
		if mediaType == "disk" {
			m, err := l.manifest(h)
			if err != nil {
				t.Fatal(err)
			}
			h = m.Layers[0].Digest
		}
		blob := filepath.Join(l.Dir(), "blobs", "sha256", h.Hex)
		b, _ := os.ReadFile(blob)
		b[len(b)/2] ^= 1
		if err := os.WriteFile(blob, b, 0o644); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(t.TempDir(), "out.raw")
		if err := l.Extract(context.Background(), digest, out); err == nil {
			t.Errorf("a damaged %s was used", mediaType)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("a damaged %s left an output", mediaType)
		}
	}
}

// Storing again mends what a killed writer or a full disk left half written,
// and another image's damage keeps nobody from storing.
func TestStoringAgainMends(t *testing.T) {
	for _, part := range []string{"config", "disk", "chunks", "manifest"} {
		l := open(t)
		digest, path, img := put(t, l)
		h, err := l.Resolve(digest)
		if err != nil {
			t.Fatal(err)
		}
		m, err := l.manifest(h)
		if err != nil {
			t.Fatal(err)
		}
		blob := map[string]string{
			"config": m.Config.Digest.Hex, "disk": m.Layers[0].Digest.Hex, "chunks": m.Layers[1].Digest.Hex,
			"manifest": h.Hex,
		}[part]
		if err := os.Truncate(filepath.Join(l.Dir(), "blobs", "sha256", blob), 1); err != nil {
			t.Fatal(err)
		}
		other := img
		other.Name, other.Root, other.UKI = "other", nil, nil
		if _, _, err := l.PutImage(t.Context(), path, other); err != nil {
			t.Errorf("damaged %s: another image cannot be stored: %v", part, err)
		}
		again, _, err := l.PutImage(t.Context(), path, img)
		if again != digest || err != nil {
			t.Errorf("damaged %s: storing again gives %s, %v", part, again, err)
		}
		if err := l.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "out")); err != nil {
			t.Errorf("damaged %s: %v", part, err)
		}
		for _, d := range append(m.Layers, m.Config) {
			if err := l.verify(t.Context(), d); err != nil {
				t.Errorf("damaged %s: not mended: %v", part, err)
			}
		}
	}
}

// An image stays known when its only tag moves away.
func TestMovedTagKeepsTheImage(t *testing.T) {
	l := open(t)
	first, path, img := put(t, l)
	img.Name, img.Root, img.UKI = "second", nil, nil
	second, _, err := l.PutImage(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Tag(first, "candidate"); err != nil {
		t.Fatal(err)
	}
	// As a tool that copies layouts leaves it: one entry, with its tag.
	err = l.update(func(im *v1.IndexManifest) error {
		im.Manifests = slices.DeleteFunc(im.Manifests, func(d v1.Descriptor) bool {
			return d.Digest.String() == first && d.Annotations[annotationRef] == ""
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Tag(second, "candidate"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(first); err != nil {
		t.Errorf("the image that lost its tag: %v", err)
	}
	if tags, err := l.Tags(); err != nil || tags["candidate"] != second || len(tags) != 1 {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestTagsAndNames(t *testing.T) {
	l := open(t)
	digest, _, _ := put(t, l)
	for range 2 { // moving a tag to where it is changes nothing
		if err := l.Tag(digest, "candidate"); err != nil {
			t.Fatal(err)
		}
	}
	tags, err := l.Tags()
	if d := cmp.Diff(map[string]string{"candidate": digest}, tags); d != "" || err != nil {
		t.Errorf("Tags (-want +got): %v\n%s", err, d)
	}
	for _, name := range []string{digest, digest[:15], strings.TrimPrefix(digest, "sha256:")[:6], "candidate"} {
		if h, err := l.Resolve(name); err != nil || h.String() != digest {
			t.Errorf("Resolve(%s) = %s, %v", name, h, err)
		}
	}
	for _, name := range []string{"", "sha256:", "ffff", "production", digest + "0"} {
		if h, err := l.Resolve(name); err == nil {
			t.Errorf("Resolve(%q) = %s; want an error", name, h)
		}
	}
	if err := l.Tag(digest, "no/tag"); err == nil {
		t.Error("a tag with a slash was taken")
	}
}

func TestReferrers(t *testing.T) {
	l := open(t)
	digest, _, _ := put(t, l)
	ref, err := l.Attach(digest, EvidenceType, map[string]string{"kind": "k"},
		Blob{"evidence.json", "application/json", []byte(`{"a":1}`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Attach(digest, ManifestType, nil, Blob{"m", "application/json", []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	got, err := l.Referrers(digest, EvidenceType)
	want := []Referrer{{ref, EvidenceType, map[string]string{"kind": "k"}}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("Referrers (-want +got): %v\n%s", err, d)
	}
	// The index says whose they are.
	im, err := l.index()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range im.Manifests {
		if of := d.Annotations[AnnotationSubject]; (of == digest) != (d.Digest.String() != digest) {
			t.Errorf("the index says that %s is attached to %q", d.Digest, of)
		}
	}
	if b, err := l.Attached(ref, "evidence.json"); string(b) != `{"a":1}` || err != nil {
		t.Errorf("Attached = %q, %v", b, err)
	}
}

// skopeo is the field's own reader of layouts.
func TestSkopeoCopies(t *testing.T) {
	testenv.Need(t, "skopeo")
	l := open(t)
	digest, _, _ := put(t, l)
	if err := l.Tag(digest, "candidate"); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	out, err := exec.Command("skopeo", "copy", "--preserve-digests", "oci:"+l.Dir()+":candidate",
		"oci:"+to+":candidate").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	c, err := Open(to)
	if err != nil {
		t.Fatal(err)
	}
	tags, err := c.Tags()
	if err != nil || tags["candidate"] != digest {
		t.Errorf("the copy's tags are %v, %v; want candidate at %s", tags, err, digest)
	}
	if err := c.Extract(context.Background(), "candidate", filepath.Join(to, "disk")); err != nil {
		t.Error(err)
	}
}
