package imagebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"goldsmith/internal/tarball"
	"goldsmith/internal/tree"
)

// writeOCI writes the tree as a container image: an OCI image layout
// (image-spec 1.1) of one layer, in a tar archive. Its only time is that of
// the image's content, so that the same tree has the same digest.
func writeOCI(ctx context.Context, f *os.File, src *source) (err error) {
	// A blob's name is its digest, so the layer is complete before it goes
	// into the archive.
	blob, err := os.CreateTemp(src.build.work.dir, "layer-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, blob.Close(), os.Remove(blob.Name())) }()
	layer, content, err := writeLayer(ctx, blob, src.tree)
	if err != nil {
		return err
	}
	a := &ociArchive{w: tar.NewWriter(f), time: src.epoch}
	config, err := a.json(src.containerConfig(content), types.OCIConfigJSON)
	if err != nil {
		return err
	}
	if _, err := blob.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if err := a.add(blobName(layer.Digest), layer.Size, blob); err != nil {
		return err
	}
	manifest, err := a.json(v1.Manifest{
		SchemaVersion: 2, MediaType: types.OCIManifestSchema1, Config: config, Layers: []v1.Descriptor{layer},
	}, types.OCIManifestSchema1)
	if err != nil {
		return err
	}
	manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": src.build.def.Version}
	index, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{manifest},
	})
	if err != nil {
		return err
	}
	marker := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	return errors.Join(
		a.add("index.json", int64(len(index)), bytes.NewReader(index)),
		a.add("oci-layout", int64(len(marker)), bytes.NewReader(marker)),
		a.w.Close())
}

// writeLayer writes the tree as a compressed layer and returns its descriptor
// and the digest of its content.
func writeLayer(ctx context.Context, f *os.File, t *tree.Tree) (v1.Descriptor, v1.Hash, error) {
	packed, content := sha256.New(), sha256.New()
	// Every container engine reads gzip; this package's is several times as
	// fast as the standard library's.
	z := gzip.NewWriter(io.MultiWriter(f, packed))
	if err := errors.Join(tarball.Write(ctx, io.MultiWriter(z, content), t), z.Close()); err != nil {
		return v1.Descriptor{}, v1.Hash{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return v1.Descriptor{}, v1.Hash{}, err
	}
	return v1.Descriptor{MediaType: types.OCILayer, Size: fi.Size(), Digest: ociHash(packed)}, ociHash(content), nil
}

// containerConfig says how the image is run. With an init it starts like a
// machine, otherwise with a shell.
func (s *source) containerConfig(content v1.Hash) *v1.ConfigFile {
	def := s.build.def
	c := &v1.ConfigFile{
		Architecture: def.Arch, OS: "linux", Created: v1.Time{Time: s.epoch},
		Config: v1.Config{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"/bin/sh"},
			Labels: map[string]string{
				"org.opencontainers.image.title": def.Name, "org.opencontainers.image.version": def.Version,
			},
		},
		History: []v1.History{{Created: v1.Time{Time: s.epoch}, CreatedBy: "goldsmith"}},
		RootFS:  v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{content}},
	}
	if s.tree.Lookup("usr/sbin/init") != nil || s.tree.Lookup("sbin/init") != nil {
		c.Config.Cmd = []string{"/sbin/init"}
		c.Config.StopSignal = "SIGRTMIN+3" // ends systemd, and kills nothing else
	}
	return c
}

// ociArchive is an image layout that becomes a tar archive.
type ociArchive struct {
	w    *tar.Writer
	time time.Time
}

// json adds a document as a blob.
func (a *ociArchive) json(v any, kind types.MediaType) (v1.Descriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	h := sha256.New()
	h.Write(b)
	d := v1.Descriptor{MediaType: kind, Size: int64(len(b)), Digest: ociHash(h)}
	return d, a.add(blobName(d.Digest), d.Size, bytes.NewReader(b))
}

func (a *ociArchive) add(name string, size int64, r io.Reader) error {
	err := a.w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: a.time.Truncate(time.Second),
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(a.w, r)
	return err
}

func blobName(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }

func ociHash(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}
