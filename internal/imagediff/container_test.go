package imagediff

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/fat"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
	"goldsmith/internal/uki"
)

// testLayout is an OCI image layout that is being made.
type testLayout struct {
	t   *testing.T
	dir string
}

func (l testLayout) blob(media string, content []byte) map[string]any {
	l.t.Helper()
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	l.file("blobs/sha256/"+sum, content)
	return map[string]any{"mediaType": media, "digest": "sha256:" + sum, "size": len(content)}
}

func (l testLayout) file(name string, content []byte) {
	l.t.Helper()
	p := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(p, content, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l testLayout) json(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return b
}

// layerOf is an archive of files with their names as content; names that end
// in a slash are directories, "a=b" is a hard link.
func layerOf(t *testing.T, names ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		h := &tar.Header{Name: n, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(n))}
		if from, to, ok := strings.Cut(n, "="); ok {
			h = &tar.Header{Name: from, Linkname: to, Typeflag: tar.TypeLink}
		} else if strings.HasSuffix(n, "/") {
			h = &tar.Header{Name: n, Mode: 0o755, Typeflag: tar.TypeDir}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte(n))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func container(t *testing.T, layers ...[]byte) testLayout {
	l := testLayout{t, t.TempDir()}
	var list []any
	for _, b := range layers {
		list = append(list, l.blob("application/vnd.oci.image.layer.v1.tar", b))
	}
	config := l.blob("application/vnd.oci.image.config.v1+json", []byte("{}"))
	m := l.blob("application/vnd.oci.image.manifest.v1+json", l.json(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": list}))
	m["annotations"] = map[string]string{annotationRef: "one"}
	l.file("index.json", l.json(map[string]any{"schemaVersion": 2, "manifests": []any{m}}))
	l.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func TestLayers(t *testing.T) {
	l := container(t,
		layerOf(t, "a/", "a/x", "a/y", "b/", "b/x", "b/c/", "b/c/z", "d/", "d/x", "e", "f"),
		layerOf(t, "a/.wh.x", "b/.wh..wh..opq", "b/new", "d", ".wh.e", "g=f", "a/h=g"))
	want := []string{"/", "/a", "/a/h", "/a/y", "/b", "/b/new", "/d", "/f", "/g"}
	archive := filepath.Join(t.TempDir(), "a.oci.tar")
	testenv.Need(t, "tar")
	pack := command.Exec{Args: []string{"tar", "-cf", archive, "-C", l.dir, "."}}
	if err := pack.Run(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		l.dir, "oci:" + l.dir + ":one", l.dir + ":one", archive, "oci-archive:" + archive + ":one",
	} {
		var got []string
		for _, f := range readImage(t, name).Files {
			got = append(got, f.Path)
			if f.Path == "/g" && (f.Link != "/a/h" || f.SHA256 == "") {
				t.Errorf("%s: the link is %v", name, f)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestDamagedLayer(t *testing.T) {
	l := container(t, layerOf(t, "a"))
	blobs, _ := filepath.Glob(filepath.Join(l.dir, "blobs/sha256/*"))
	for _, b := range blobs {
		content, err := os.ReadFile(b)
		if err != nil || len(content) < 1024 {
			continue
		}
		content[512] ^= 1
		l.file("blobs/sha256/"+filepath.Base(b), content)
	}
	s, err := Find(l.dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(context.Background(), s); err == nil || !strings.Contains(err.Error(), "another digest") {
		t.Errorf("a damaged layer: %v", err)
	}
}

func TestTag(t *testing.T) {
	l := container(t, layerOf(t, "a"))
	s, err := Find("oci:" + l.dir + ":two")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Read(context.Background(), s)
	if command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), `0 images tagged "two"`) {
		t.Errorf("an unknown tag: %v", err)
	}
}

// The command line is read from a unified kernel image on the EFI partition.
func TestKernelImage(t *testing.T) {
	program, err := uki.Build(testenv.EFIProgram(), uki.Image{
		Cmdline: "root=PARTUUID=abc ro quiet", Uname: "6.1.0-9-amd64", Linux: []byte("linux"),
	})
	if err != nil {
		t.Fatal(err)
	}
	tr := tree.New()
	tr.AddFile("EFI/Linux/demo_1.efi", 0o644, program)
	tr.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, testenv.EFIProgram())
	p := write(t, "esp", func(f *os.File) error {
		_, err := fat.Write(f, tr, fat.Options{Size: 64 << 20})
		return err
	})
	f, err := os.Open(p)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &Image{}
	newCollector(context.Background(), m).kernelImages(io.NewSectionReader(f, 0, 64<<20))
	if m.Cmdline != "root=PARTUUID=abc ro quiet" || strings.Join(m.Kernels, " ") != "6.1.0-9-amd64" || m.Notes != nil {
		t.Errorf("command line %q, kernels %q, notes %q", m.Cmdline, m.Kernels, m.Notes)
	}
}

// Whatever of the command line names the disk's own content is called by its
// place.
func TestCommandLine(t *testing.T) {
	m := &Image{
		Cmdline: "root=PARTUUID=00112233-4455-6677-8899-aabbccddeeff roothash=00112233445566778899aabbccddeeffffeeddccbbaa99887766554433221100 ro",
		Partitions: []disk.Partition{
			{Name: "root-a", GUID: "00112233-4455-6677-8899-aabbccddeeff"}, {Name: "verity-a", GUID: "ffeeddcc-bbaa-9988-7766-554433221100"}, {},
		},
	}
	if got, want := m.commandLine(), "root=PARTUUID=<root-a> roothash=<root-a><verity-a> ro"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
