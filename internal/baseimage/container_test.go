package baseimage

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// layerOf makes a layer of names: a directory ends in a slash, "a -> b" is a
// symbolic link, "a = b" a hard link, anything else a file with its name in it.
func layerOf(t *testing.T, kind types.MediaType, names ...string) v1.Layer {
	t.Helper()
	var b, packed bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Mode: 0o644, Size: int64(len(n)), ModTime: sampleTime}
		if from, to, ok := strings.Cut(n, " -> "); ok {
			h.Typeflag, h.Name, h.Linkname, h.Size = tar.TypeSymlink, from, to, 0
		} else if from, to, ok := strings.Cut(n, " = "); ok {
			h.Typeflag, h.Name, h.Linkname, h.Size = tar.TypeLink, from, to, 0
		} else if strings.HasSuffix(n, "/") {
			h.Typeflag, h.Mode, h.Size = tar.TypeDir, 0o755, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	var z io.WriteCloser = gzip.NewWriter(&packed)
	if kind == types.OCILayerZStd {
		z, _ = zstd.NewWriter(&packed)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if kind == types.OCIUncompressedLayer {
		return static.NewLayer(b.Bytes(), kind)
	}
	return static.NewLayer(packed.Bytes(), kind)
}

func imageOf(t *testing.T, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layers...)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func layoutOf(t *testing.T, images map[string]v1.Image) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for tag, img := range images {
		if err := p.AppendImage(img, layout.WithAnnotations(map[string]string{annotationRef: tag})); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// paths are the names of files with what they hold.
func paths(t *testing.T, dir string) map[string]string {
	t.Helper()
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range tr.All() {
		switch {
		case e.LinkTo != "":
			out[e.Path] = "= " + e.LinkTo
		case e.IsDir():
			out[e.Path] = "/"
		case e.Kind() == tree.ModeSymlink:
			out[e.Path] = "-> " + e.Target
		default:
			b, _ := e.ReadFile()
			out[e.Path] = string(b)
		}
	}
	return out
}

func layered(t *testing.T) (v1.Image, map[string]string) {
	t.Helper()
	img := imageOf(t,
		layerOf(t, types.OCILayer, "usr/", "usr/lib/", "lib -> usr/lib", "etc/a", "etc/b", "etc/sub/c", "gone/x", "gone/y", "kept/old", "hard", "hard2 = hard", "was-dir/x"),
		layerOf(t, types.OCILayerZStd, "lib/new", "etc/.wh.a", ".wh.hard", "gone/before", "gone/.wh..wh..opq", "gone/after", ".wh.nothing", "kept/new", "was-dir"),
		layerOf(t, types.OCIUncompressedLayer, "etc/a", "etc/.wh.a", "etc/.wh.sub"),
	)
	return img, map[string]string{
		".": "/", "usr": "/", "usr/lib": "/", "usr/lib/new": "lib/new", "lib": "-> usr/lib", "etc": "/", "etc/a": "etc/a", "etc/b": "etc/b",
		"gone": "/", "gone/before": "gone/before", "gone/after": "gone/after", "kept": "/", "kept/old": "kept/old", "kept/new": "kept/new",
		"hard2": "hard", "was-dir": "was-dir",
	}
}

func checkPaths(t *testing.T, image string, o Options, want map[string]string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	if err := Extract(t.Context(), image, dir, o); err != nil {
		t.Errorf("%s: %v", image, err)
		return
	}
	if diff := cmp.Diff(want, paths(t, dir)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", image, diff)
	}
}

// Layers lie over each other as the specification says, wherever the image
// comes from.
func TestContainerImages(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "skopeo")
	img, want := layered(t)
	dir := layoutOf(t, map[string]v1.Image{"one": img, "two": imageOf(t, layerOf(t, types.OCILayer, "only"))})
	checkPaths(t, "oci:"+dir+":one", Options{}, want)
	checkPaths(t, "oci:"+dir+":two", Options{}, map[string]string{".": "/", "only": "only"})
	if _, err := extract(t, "oci:"+dir, Options{}); err == nil || !strings.Contains(err.Error(), "2 images") {
		t.Errorf("one of two: %v", err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	run(t, "skopeo", "--insecure-policy", "copy", "oci:"+dir+":one", "oci-archive:"+file+":tag")
	checkPaths(t, "oci-archive:"+file+":tag", Options{}, want)
	b, _ := os.ReadFile(file)
	sum := sha256.Sum256(b)
	checkPaths(t, "oci-archive:"+file, Options{SHA256: hex.EncodeToString(sum[:])}, want)

	server := httptest.NewServer(registry.New())
	defer server.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/images/demo:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	checkPaths(t, ref.String(), Options{}, want)
	for image, o := range map[string]Options{
		ref.String(): {Offline: true}, ref.Context().String() + ":2": {}, ref.Context().String() + ":1": {SHA256: strings.Repeat("a", 64)},
	} {
		if _, err := extract(t, image, o); err == nil {
			t.Errorf("%s %+v: extracted", image, o)
		}
	}
}

// Of an image for several platforms, the one that is wanted is taken.
func TestPlatforms(t *testing.T) {
	testenv.NeedRoot(t)
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: imageOf(t, layerOf(t, types.OCILayer, "arm")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64"}}},
		mutate.IndexAddendum{Add: imageOf(t, layerOf(t, types.OCILayer, "amd")), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	dir := layoutOf(t, nil)
	if err := layout.Path(dir).AppendIndex(index); err != nil {
		t.Fatal(err)
	}
	checkPaths(t, "oci:"+dir, Options{}, map[string]string{".": "/", "amd": "amd"})
	checkPaths(t, "oci:"+dir, Options{Arch: "arm64"}, map[string]string{".": "/", "arm": "arm"})
	if _, err := extract(t, "oci:"+dir, Options{Arch: "riscv64"}); err == nil || !strings.Contains(err.Error(), "no image for") {
		t.Errorf("another platform: %v", err)
	}
}

// Whichever blob of a layout is changed, nothing of it is written.
func TestDamagedLayout(t *testing.T) {
	testenv.NeedRoot(t)
	img, _ := layered(t)
	m, err := img.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	digest, _ := img.Digest()
	for _, h := range []v1.Hash{digest, m.Layers[0].Digest, m.Layers[2].Digest} {
		for _, change := range []func(b []byte) []byte{
			func(b []byte) []byte { b[len(b)/2]++; return b },
			func(b []byte) []byte { return b[:len(b)-1] },
			func(b []byte) []byte { return append(b, 0) },
		} {
			dir := layoutOf(t, map[string]v1.Image{"one": img})
			file := filepath.Join(dir, "blobs/sha256", h.Hex)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, change(b), 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := extract(t, "oci:"+dir, Options{}); err == nil || !strings.Contains(err.Error(), "damaged") {
				t.Errorf("%s changed: %v", h, err)
			}
		}
	}
	odd := layoutOf(t, map[string]v1.Image{"one": imageOf(t, static.NewLayer([]byte("disk"), "application/vnd.goldsmith.disk.raw.v1+zstd"))})
	if _, err := extract(t, "oci:"+odd, Options{}); err == nil || !strings.Contains(err.Error(), "holds no files") {
		t.Errorf("a layer that is no archive: %v", err)
	}
	if _, err := extract(t, "oci:"+t.TempDir(), Options{}); err == nil || !strings.Contains(err.Error(), "not an OCI image layout") {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestCutTag(t *testing.T) {
	for in, want := range map[string][2]string{"dir:tag": {"dir", "tag"}, "a:1/dir": {"a:1/dir", ""}, "dir": {"dir", ""}, "/x/y:z": {"/x/y", "z"}} {
		if file, tag := cutTag(in); file != want[0] || tag != want[1] {
			t.Errorf("cutTag(%q) = %q, %q", in, file, tag)
		}
	}
}
