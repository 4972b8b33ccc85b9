package baseimage

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"goldsmith/internal/command"
)

const (
	maxManifest   = 4 << 20 // bytes
	maxBlobs      = 10_000  // in an archive
	maxBlobBytes  = 1 << 40 // all together
	annotationRef = "org.opencontainers.image.ref.name"
)

// platform is the one that files are wanted for.
func (x *extraction) platform() v1.Platform {
	if x.Arch == "" {
		return v1.Platform{OS: "linux", Architecture: "amd64"}
	}
	return v1.Platform{OS: "linux", Architecture: x.Arch}
}

// pull extracts an image of a registry.
func (x *extraction) pull(ctx context.Context) error {
	ref, err := name.ParseReference(x.image)
	if err != nil {
		return command.Usage(fmt.Sprintf("%s: %v", x.image, err),
			"name a file, a URL, oci:DIRECTORY:TAG, oci-archive:FILE or HOST/REPOSITORY:TAG")
	}
	if x.Offline {
		return command.Missing(fmt.Errorf("%s: images of registries are not kept in the cache", x.image),
			"copy it into a layout while there is a network (skopeo copy docker://… oci:DIRECTORY:TAG), and name that")
	}
	img, err := remote.Image(ref, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain),
		remote.WithPlatform(x.platform()), remote.WithUserAgent("goldsmith"))
	if err != nil {
		return fmt.Errorf("%s: %w", x.image, err)
	}
	m, err := img.Manifest() // verified by the digest that was asked for
	if err != nil {
		return fmt.Errorf("%s: %w", x.image, err)
	}
	return x.container(ctx, m, func(d v1.Descriptor) (io.ReadCloser, error) {
		l, err := img.LayerByDigest(d.Digest)
		if err != nil {
			return nil, err
		}
		return l.Compressed()
	})
}

// ociArchive extracts an image layout in an archive.
func (x *extraction) ociArchive(ctx context.Context, f *os.File, tag string) error {
	dir := filepath.Join(x.tmp, "layout")
	if err := unpackLayout(command.Reader(ctx, f), dir); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return x.layoutDir(ctx, dir, f.Name(), tag)
}

// layoutFile are the files of a layout, of which the first two are small.
var layoutFile = regexp.MustCompile(`^(oci-layout|index\.json|blobs/sha256/[0-9a-f]{64})$`)

// unpackLayout writes the files of a layout, and nothing else.
func unpackLayout(r io.Reader, dir string) error {
	z, _, err := Decompress(r)
	if err != nil {
		return err
	}
	defer z.Close()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	blobs, left := 0, int64(maxBlobBytes)
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		file := strings.TrimPrefix(h.Name, "./")
		if h.Typeflag != tar.TypeReg || !layoutFile.MatchString(file) {
			continue
		}
		if path.Dir(file) == "." {
			if h.Size > maxManifest {
				return fmt.Errorf("%s: larger than %d bytes", file, maxManifest)
			}
		} else if blobs++; blobs > maxBlobs {
			return fmt.Errorf("more than %d blobs", maxBlobs)
		}
		if left -= h.Size; left < 0 {
			return fmt.Errorf("more than %d GiB in it", maxBlobBytes>>30)
		}
		out, err := os.Create(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		_, err = io.Copy(out, tr)
		if err := errors.Join(err, out.Close()); err != nil {
			return err
		}
	}
}

// layout extracts an image of a layout, DIRECTORY or DIRECTORY:TAG.
func (x *extraction) layout(ctx context.Context, where string) error {
	dir, tag := cutTag(where)
	return x.layoutDir(ctx, dir, dir, tag)
}

// layoutDir extracts an image of the layout in dir; errors call it where.
func (x *extraction) layoutDir(ctx context.Context, dir, where, tag string) error {
	raw, err := readLayout(dir, "index.json")
	if err != nil {
		return command.BadInput(fmt.Errorf("%s: not an OCI image layout: %w", where, err), "")
	}
	list, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("%s: index.json: %w", where, err)
	}
	found := list.Manifests
	if tag != "" {
		found = nil
		for _, d := range list.Manifests {
			if d.Annotations[annotationRef] == tag {
				found = append(found, d)
			}
		}
	}
	if len(found) != 1 {
		what := "images"
		if tag != "" {
			what = fmt.Sprintf("images tagged %q", tag)
		}
		return command.BadInput(fmt.Errorf("%s: %d %s", where, len(found), what), "name one of them by its tag, behind a colon")
	}
	m, err := x.fromLayout(dir, found[0], 0)
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return x.container(ctx, m, func(d v1.Descriptor) (io.ReadCloser, error) {
		return openFile(filepath.Join(dir, blobPath(d)), blobPath(d))
	})
}

// blobPath is where a layout has a blob. A digest is not taken for a path.
func blobPath(d v1.Descriptor) string {
	return filepath.Join("blobs", filepath.Base(d.Digest.Algorithm), filepath.Base(d.Digest.Hex))
}

// readLayout reads a small file of the layout in dir. Errors do not name dir,
// which may be a scratch directory.
func readLayout(dir, file string) ([]byte, error) {
	f, err := openFile(filepath.Join(dir, file), file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAtMost(f, file, maxManifest)
}

// fromLayout follows a descriptor to an image's manifest, through indexes for
// several platforms. All are verified before they are used.
func (x *extraction) fromLayout(dir string, d v1.Descriptor, depth int) (*v1.Manifest, error) {
	raw, err := readLayout(dir, blobPath(d))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); d.Digest.Algorithm != "sha256" || hex.EncodeToString(sum[:]) != d.Digest.Hex {
		return nil, fmt.Errorf("blob %s is damaged", d.Digest)
	}
	if !d.MediaType.IsIndex() {
		return v1.ParseManifest(bytes.NewReader(raw))
	}
	list, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	want := x.platform()
	for _, m := range list.Manifests {
		if m.Platform != nil && m.Platform.OS == want.OS && m.Platform.Architecture == want.Architecture && depth < 4 {
			return x.fromLayout(dir, m, depth+1)
		}
	}
	return nil, fmt.Errorf("no image for %s", want)
}

// opener opens a layer as it is stored.
type opener func(d v1.Descriptor) (io.ReadCloser, error)

// container extracts the layers of a container image, the lowest first. All
// are fetched and verified before one is unpacked.
func (x *extraction) container(ctx context.Context, m *v1.Manifest, open opener) error {
	if len(m.Layers) == 0 {
		return fmt.Errorf("%s: an image without layers", x.image)
	}
	for i, l := range m.Layers {
		if !l.MediaType.IsLayer() || !l.MediaType.IsDistributable() {
			return command.BadInput(fmt.Errorf("%s: layer %d is %s, which holds no files", x.image, i+1, l.MediaType), "")
		}
		x.info("layer %d of %d, %d MiB", i+1, len(m.Layers), l.Size>>20)
		if err := x.fetchLayer(ctx, l, open); err != nil {
			return fmt.Errorf("%s: layer %s: %w", x.image, l.Digest, err)
		}
	}
	u := newUnpacker(x.root)
	for _, l := range m.Layers {
		if err := x.unpackLayer(ctx, u, l); err != nil {
			return fmt.Errorf("%s: layer %s: %w", x.image, l.Digest, err)
		}
	}
	return u.finish()
}

func (x *extraction) layerFile(d v1.Descriptor) string {
	return filepath.Join(x.tmp, "layer-"+filepath.Base(d.Digest.Hex))
}

// fetchLayer copies a layer into the scratch directory and verifies it.
func (x *extraction) fetchLayer(ctx context.Context, d v1.Descriptor, open opener) error {
	if d.Digest.Algorithm != "sha256" {
		return fmt.Errorf("a digest of the unknown kind %q", d.Digest.Algorithm)
	}
	rc, err := open(d)
	if err != nil {
		return err
	}
	defer rc.Close()
	f, err := os.Create(x.layerFile(d))
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	// One byte more than there should be shows a layer that is too long.
	n, err := io.CopyBuffer(io.MultiWriter(f, h), io.LimitReader(command.Reader(ctx, rc), d.Size+1), make([]byte, 1<<20))
	if err != nil {
		return err
	}
	if n != d.Size || hex.EncodeToString(h.Sum(nil)) != d.Digest.Hex {
		return errors.New("it is damaged: its content has another digest")
	}
	return nil
}

func (x *extraction) unpackLayer(ctx context.Context, u *unpacker, d v1.Descriptor) error {
	f, err := os.Open(x.layerFile(d))
	if err != nil {
		return err
	}
	defer f.Close()
	z, _, err := Decompress(command.Reader(ctx, f))
	if err != nil {
		return err
	}
	defer z.Close()
	return u.tar(z)
}
