package baseimage

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

// What an extraction that was killed has left is gone after the next one to
// the same directory.
func TestKilled(t *testing.T) {
	testenv.NeedRoot(t)
	if url := os.Getenv("GOLDSMITH_TEST_KILLED"); url != "" {
		t.Fatal(Extract(t.Context(), url, os.Getenv("GOLDSMITH_TEST_DIR"), Options{Cache: os.Getenv("GOLDSMITH_TEST_CACHE")}))
	}
	asked := make(chan bool, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- true
		<-r.Context().Done() // it never answers
	}))
	defer server.Close()
	parent := t.TempDir()
	dir := filepath.Join(parent, "root")
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), "GOLDSMITH_TEST_KILLED="+server.URL+"/root.tar",
		"GOLDSMITH_TEST_DIR="+dir, "GOLDSMITH_TEST_CACHE="+t.TempDir())
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	living := names(t, parent)
	image := archive(t, sampleTree())
	if err := Extract(t.Context(), image, dir, Options{}); err != nil {
		t.Error(err)
	}
	if got := names(t, parent); living == "" || got != living+" root" {
		t.Errorf("beside a living extraction: %q; want %q and root", got, living)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), image, dir, Options{}); err != nil {
		t.Error(err)
	}
	if got := names(t, parent); got != "root" {
		t.Errorf("after a killed extraction: %q", got)
	}
}

// Only what extractions to the same directory have left is swept.
func TestSweep(t *testing.T) {
	testenv.NeedRoot(t)
	parent, outside := t.TempDir(), t.TempDir()
	for _, d := range []string{
		".root.goldsmith-12/root/etc", ".root.goldsmith-13", ".root.goldsmith-14", ".root.goldsmith-keep",
		".root.goldsmith-", ".other.goldsmith-12", "root.goldsmith-12",
	} {
		if err := os.MkdirAll(filepath.Join(parent, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(parent, ".root.goldsmith-12/root/etc/file"), []byte("x"), 0o644),
		os.WriteFile(filepath.Join(parent, ".root.goldsmith-15"), nil, 0o644),
		os.Symlink(outside, filepath.Join(parent, ".root.goldsmith-16")),
		os.Symlink(outside, filepath.Join(parent, ".root.goldsmith-12/link")),
		os.WriteFile(filepath.Join(outside, "precious"), nil, 0o644),
		os.Chown(filepath.Join(parent, ".root.goldsmith-14"), 1000, 1000),
	); err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(filepath.Join(parent, ".root.goldsmith-13"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), archive(t, sampleTree()), filepath.Join(parent, "root"), Options{}); err != nil {
		t.Fatal(err)
	}
	want := ".other.goldsmith-12 .root.goldsmith- .root.goldsmith-13 .root.goldsmith-14 .root.goldsmith-15 " +
		".root.goldsmith-16 .root.goldsmith-keep root root.goldsmith-12"
	if got := names(t, parent); got != want {
		t.Errorf("left: %s\nwant: %s", got, want)
	}
	if got := names(t, outside); got != "precious" {
		t.Errorf("outside: %q", got)
	}
}

// A directory that was swept between its making and its locking is not taken
// for one's own, whether or not another has its name by then.
func TestSweptBeforeLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "scratch")
	for _, again := range []bool{false, true} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := os.Remove(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := lockScratch(dir); !errors.Is(err, errSwept) {
			t.Errorf("opened: %v", err)
		}
		if again {
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := lockDir(f); !errors.Is(err, errSwept) {
			t.Errorf("there again %v: %v", again, err)
		}
	}
}

// Of many extractions to one directory at once, one succeeds, and none takes
// another's files away.
func TestAtOnce(t *testing.T) {
	testenv.NeedRoot(t)
	image := archive(t, sampleTree())
	for range 20 {
		parent := t.TempDir()
		dir := filepath.Join(parent, "root")
		errs := make([]error, 6)
		var all sync.WaitGroup
		for i := range errs {
			all.Go(func() { errs[i] = Extract(t.Context(), image, dir, Options{}) })
		}
		all.Wait()
		good := 0
		for _, err := range errs {
			switch {
			case err == nil:
				good++
			case !strings.Contains(err.Error(), "not empty") && !errors.Is(err, unix.EEXIST):
				t.Error(err)
			}
		}
		if got := names(t, parent); good != 1 || got != "root" {
			t.Fatalf("%d succeeded; left: %s", good, got)
		}
	}
}

// A pipe is refused before it is opened, which could take for ever.
func TestPipes(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	img, _ := layered(t)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	layer, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	images := []string{pipe, "file://" + pipe, "oci-archive:" + pipe, "/dev/tty"}
	for _, file := range []string{"index.json", "blobs/sha256/" + digest.Hex, "blobs/sha256/" + layer.Hex} {
		l := layoutOf(t, map[string]v1.Image{"one": img})
		if err := errors.Join(os.Remove(filepath.Join(l, file)), os.Symlink(pipe, filepath.Join(l, file))); err != nil {
			t.Fatal(err)
		}
		images = append(images, "oci:"+l)
	}
	for _, image := range images {
		_, err := extract(t, image, Options{})
		if err == nil || !strings.Contains(err.Error(), "neither a file nor a disk") ||
			command.Status(err) != command.StatusUsage || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// tarOf makes an archive of headers, and of nothing that they head.
func tarOf(t *testing.T, headers ...*tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	for _, h := range headers {
		w := tar.NewWriter(&b)
		h.Typeflag, h.Mode, h.Format = tar.TypeReg, 0o644, tar.FormatGNU // sizes of more than 8 GiB
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	return save(t, "layout.tar", b.Bytes())
}

// However much a layout says to have, little of it is read.
func TestBoundedLayouts(t *testing.T) {
	testenv.NeedRoot(t)
	blob := func(i int) string { return fmt.Sprintf("blobs/sha256/%064x", i) }
	sized := func(name string, size int64) *tar.Header { return &tar.Header{Name: name, Size: size} }
	const large = "index.json: larger than 4194304 bytes"
	var many []*tar.Header
	for i := range maxBlobs + 1 {
		many = append(many, &tar.Header{Name: blob(i)})
	}
	for name, c := range map[string]struct {
		image, want string
	}{
		"index":     {"oci-archive:" + tarOf(t, sized("index.json", maxManifest+1)), large},
		"blob":      {"oci-archive:" + tarOf(t, sized(blob(1), maxBlobBytes+1)), "more than 1024 GiB in it"},
		"blobs":     {"oci-archive:" + tarOf(t, sized(blob(1), 0), sized(blob(2), maxBlobBytes+1)), "more than"},
		"overflow":  {"oci-archive:" + tarOf(t, sized(blob(1), 1<<63-1)), "more than"},
		"many":      {"oci-archive:" + tarOf(t, many...), "more than 10000 blobs"},
		"directory": {"oci:" + layoutWith(t, "index.json", maxManifest+1), large},
	} {
		_, err := extract(t, c.image, Options{})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ".goldsmith-") {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

// layoutWith makes a directory with one file, of zeros.
func layoutWith(t *testing.T, name string, size int64) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, name)
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, size)); err != nil {
		t.Fatal(err)
	}
	return dir
}
