package imagebuild

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

var sampleEpoch = time.Unix(1_700_000_000, 0).UTC()

// sampleTree has every kind of file that an image may hold, under times of the
// past.
func sampleTree() *tree.Tree {
	t := tree.New()
	t.AddFile("etc/motd", 0o644, []byte("hello\n"))
	t.AddFile("usr/bin/ping", 0o4755, bytes.Repeat([]byte("golden image "), 30000)).Xattrs =
		map[string]string{"security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
	t.AddFile("srv/data", 0o640, nil).UID = 1000
	t.Add(&tree.Entry{Path: "usr/bin/ping6", Mode: tree.ModeRegular | 0o4755, LinkTo: "usr/bin/ping"})
	t.Add(&tree.Entry{Path: "bin", Mode: tree.ModeSymlink | 0o777, Target: "usr/bin"})
	t.Add(&tree.Entry{Path: "dangling", Mode: tree.ModeSymlink | 0o777, Target: "/nowhere"})
	t.Add(&tree.Entry{Path: "null", Mode: tree.ModeChar | 0o666, Major: 1, Minor: 3})
	t.Add(&tree.Entry{Path: "pipe", Mode: tree.ModeFIFO | 0o600, GID: 5})
	t.Lookup(".").Mode = tree.ModeDir | 0o711
	for i, e := range t.All() {
		e.ModTime = sampleEpoch.Add(time.Duration(-i) * time.Hour)
	}
	link, to := t.Lookup("usr/bin/ping6"), t.Lookup("usr/bin/ping")
	link.Size, link.Xattrs, link.ModTime = to.Size, to.Xattrs, to.ModTime
	t.Lookup(".").ModTime = sampleEpoch
	return t
}

// sampleSource is a source of outputs that needs no build.
func sampleSource(t *testing.T, tr *tree.Tree) *source {
	t.Helper()
	b := &build{def: &Definition{Name: "t", Version: "1", Arch: "amd64"}, log: io.Discard, work: &work{dir: t.TempDir()}, cache: &cache{dir: t.TempDir()}}
	return &source{build: b, tree: tr, epoch: sampleEpoch}
}

// writeFormat writes an output and returns its path.
func writeFormat(t *testing.T, name string, src *source) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "t."+formats[name].ending))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := formats[name].write(t.Context(), f, src); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return f.Name()
}

// entries are a tree's entries by path, with contents, and without what an
// archive does not hold.
func entries(t *testing.T, tr *tree.Tree) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, e := range tr.All() {
		if e.Kind() != tree.ModeRegular || e.LinkTo != "" {
			continue
		}
		b, err := e.ReadFile()
		if err != nil {
			t.Fatal(err)
		}
		out[e.Path] = string(b)
	}
	return out
}

func compareTrees(t *testing.T, want, got *tree.Tree) {
	t.Helper()
	list := func(tr *tree.Tree) (out []tree.Entry) {
		for _, e := range tr.All() {
			c := *e
			if c.IsDir() {
				c.Size = 0
			}
			if c.Kind() == tree.ModeSymlink {
				c.Mode |= 0o777
			}
			out = append(out, c)
		}
		return out
	}
	if diff := cmp.Diff(list(want), list(got), cmpopts.IgnoreUnexported(tree.Entry{})); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(entries(t, want), entries(t, got)); diff != "" {
		t.Errorf("contents (-want +got):\n%.2000s", diff)
	}
}

// What unsquashfs unpacks is the tree, and neither the clock nor the number of
// processors changes a byte.
func TestSquashFS(t *testing.T) {
	testenv.Need(t, mksquashfs, "unsquashfs")
	testenv.NeedRoot(t) // devices and owners
	want := sampleTree()
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 20 {
		b := make([]byte, rnd.IntN(1<<19))
		for j := range b {
			b[j] = byte(rnd.Uint32()) & 0x1f
		}
		want.AddFile(fmt.Sprintf("data/%02d", i), 0o644, b)
	}
	want.ClampTimes(sampleEpoch)
	src := sampleSource(t, want)
	real, err := exec.LookPath(mksquashfs)
	if err != nil {
		t.Fatal(err)
	}
	var first []byte
	var path string
	for _, processors := range []string{"1", "2"} {
		dir := t.TempDir()
		script := "#!/bin/sh\nexec " + real + ` "$@" -processors ` + processors + "\n"
		if err := os.WriteFile(filepath.Join(dir, mksquashfs), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		path = writeFormat(t, "squashfs", src)
		b, err := os.ReadFile(path)
		if err != nil || first != nil && !bytes.Equal(first, b) {
			t.Errorf("on %s processors the bytes are others (%v)", processors, err)
		}
		first = b
		time.Sleep(1100 * time.Millisecond) // the format's times are whole seconds
	}
	dir := filepath.Join(t.TempDir(), "root")
	if out, err := exec.Command("unsquashfs", "-q", "-n", "-d", dir, path).CombinedOutput(); err != nil {
		t.Fatalf("unsquashfs: %v\n%s", err, out)
	}
	got, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	compareTrees(t, want, got)
}

// A program that fails, and a tree that cannot be read, end the writing.
func TestSquashFSFails(t *testing.T) {
	testenv.Need(t, mksquashfs)
	f, err := os.Create(filepath.Join(t.TempDir(), "t.squashfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tr := sampleTree()
	tr.Add(&tree.Entry{Path: "lost", Mode: tree.ModeRegular, LinkTo: "nowhere"})
	if err := writeSquashFS(t.Context(), f, sampleSource(t, tr)); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a tree that is not whole: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := writeSquashFS(ctx, f, sampleSource(t, sampleTree())); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	t.Setenv("PATH", t.TempDir())
	if err := writeSquashFS(t.Context(), f, sampleSource(t, sampleTree())); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("without mksquashfs: %v", err)
	}
}

// skopeo reads the container image, and what its layer holds is the tree.
func TestOCI(t *testing.T) {
	testenv.Need(t, "skopeo", "tar")
	testenv.NeedRoot(t) // devices and owners
	src := sampleSource(t, sampleTree())
	path := writeFormat(t, "oci", src)
	a, _ := os.ReadFile(path)
	if b, _ := os.ReadFile(writeFormat(t, "oci", src)); len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("two writes differ")
	}
	if left, _ := os.ReadDir(src.build.work.dir); len(left) != 0 {
		t.Errorf("left in the scratch directory: %v", left)
	}
	for tr := tar.NewReader(bytes.NewReader(a)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil || !h.ModTime.Equal(sampleEpoch) || h.Uid != 0 || h.Uname != "" {
			t.Fatalf("%+v, %v", h, err)
		}
	}
	run := func(args ...string) []byte {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return out
	}
	var info struct {
		Architecture, Os, Created string
		Layers                    []string
	}
	if err := json.Unmarshal(run("skopeo", "inspect", "oci-archive:"+path+":1"), &info); err != nil {
		t.Fatal(err)
	}
	if info.Architecture != "amd64" || info.Os != "linux" || info.Created != "2023-11-14T22:13:20Z" || len(info.Layers) != 1 {
		t.Errorf("skopeo inspect: %+v", info)
	}
	dir, root := filepath.Join(t.TempDir(), "copy"), filepath.Join(t.TempDir(), "root")
	run("skopeo", "--insecure-policy", "copy", "oci-archive:"+path, "dir:"+dir) // verifies digests, also of the content
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	_, layer, _ := strings.Cut(info.Layers[0], ":")
	run("tar", "--xattrs", "--xattrs-include=*", "-C", root, "-xpf", filepath.Join(dir, layer))
	got, err := tree.FromDir(root)
	if err != nil {
		t.Fatal(err)
	}
	compareTrees(t, sampleTree(), got)
}

func TestContainerConfig(t *testing.T) {
	src := sampleSource(t, sampleTree())
	if c := src.containerConfig(v1.Hash{}); c.Config.Cmd[0] != "/bin/sh" || c.Config.StopSignal != "" {
		t.Errorf("without an init: %+v", c.Config)
	}
	src.tree.AddFile("usr/sbin/init", 0o755, nil)
	if c := src.containerConfig(v1.Hash{}); c.Config.Cmd[0] != "/sbin/init" || c.Config.StopSignal != "SIGRTMIN+3" {
		t.Errorf("with an init: %+v", c.Config)
	}
}

// An output of several files is one entry of the manifest for each.
func TestSeveralFiles(t *testing.T) {
	text := func(s string) func(context.Context, *os.File, *source) error {
		return func(_ context.Context, f *os.File, _ *source) error {
			_, err := f.WriteString(s)
			return err
		}
	}
	formats["test"] = format{ending: "one", write: text("1"), more: []part{{"two", text("22")}}}
	defer delete(formats, "test")
	p, _ := progress(t)
	out := t.TempDir()
	b := &build{def: &Definition{Name: "t"}, work: &work{dir: t.TempDir()}, cache: &cache{dir: t.TempDir()}, timeline: newTimeline(), epoch: sampleEpoch, outputs: []string{"test"}, progress: p, opts: Options{Out: out}}
	res, err := b.writeOutputs(t.Context(), tree.New())
	if err != nil || len(res.Outputs) != 2 {
		t.Fatal(res, err)
	}
	m, err := ReadManifest(res.Manifest)
	if err != nil || len(m.Outputs) != 2 {
		t.Fatal(m, err)
	}
	for i, want := range []Output{{Path: "t.one", Size: 1}, {Path: "t.two", Size: 2}} {
		o := m.Outputs[i]
		if o.Format != "test" || o.Path != filepath.Join(out, want.Path) || o.Size != want.Size {
			t.Errorf("output %d: %+v", i, o)
		}
	}
}

func TestTgz(t *testing.T) {
	tgz, _ := os.ReadFile(writeFormat(t, "tgz", sampleSource(t, sampleTree())))
	gz, _ := os.ReadFile(writeFormat(t, "tar.gz", sampleSource(t, sampleTree())))
	if len(gz) == 0 || !bytes.Equal(tgz, gz) {
		t.Error("tgz is another file than tar.gz")
	}
}
