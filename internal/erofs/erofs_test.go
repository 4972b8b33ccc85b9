package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// memory is an image in memory; it fails a write that leaves a gap.
type memory struct {
	data []byte
	t    interface{ Fatalf(string, ...any) }
}

func (m *memory) WriteAt(b []byte, off int64) (int, error) {
	if off != int64(len(m.data)) {
		m.t.Fatalf("write at %d after %d bytes", off, len(m.data))
	}
	m.data = append(m.data, b...)
	return len(b), nil
}

func build(t interface{ Fatalf(string, ...any) }, tr *tree.Tree, o Options) ([]byte, Result) {
	m := &memory{t: t}
	r, err := Write(m, tr, o)
	if err != nil {
		t.Fatalf("Write: %v", err)
	}
	if size, err := Size(tr); err != nil || size != int64(len(m.data)) || size != r.Size {
		t.Fatalf("Size = %d, %v; Result.Size = %d; wrote %d", size, err, r.Size, len(m.data))
	}
	return m.data, r
}

var epoch = time.Unix(1700000000, 123456789).UTC()

// sample has one of everything.
func sample() *tree.Tree {
	t := tree.New()
	add := func(e tree.Entry) { t.AddParents(e.Path); t.Add(&e) }
	t.AddFile("empty", 0o600, nil)
	t.AddFile("small", 0o4755, []byte("small\n")).UID = 70000
	t.AddFile("edge/inline", 0o644, bytes.Repeat([]byte("i"), maxInline))
	t.AddFile("edge/inline+1", 0o644, bytes.Repeat([]byte("j"), maxInline+1))
	for _, n := range []int{BlockSize - 1, BlockSize, BlockSize + 1, 3*bufferSize + 17} {
		t.AddFile(fmt.Sprintf("edge/%d", n), 0o644, bytes.Repeat([]byte{byte(n), 1, 2}, n/3+1)[:n])
	}
	capability := t.AddFile("bin/ping", 0o755, []byte("ELF"))
	capability.Xattrs = map[string]string{
		"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"user.empty":          "", "user.long": strings.Repeat("v", 3000),
		"trusted.t": "1",
	}
	capability.ModTime = time.Unix(1234567890, 987654321)
	huge := t.AddFile("bin/attributes", 0o644, []byte("x"))
	huge.Xattrs = map[string]string{"user.a": strings.Repeat("a", 5000), "user.b": strings.Repeat("b", 9000)}
	add(tree.Entry{Path: "bin/ping6", LinkTo: "bin/ping"})
	add(tree.Entry{Path: "zz/other", LinkTo: "bin/ping"})
	add(tree.Entry{Path: "sh", Mode: tree.ModeSymlink | 0o777, Target: "bin/dash"})
	add(tree.Entry{Path: "longlink", Mode: tree.ModeSymlink | 0o777, Target: strings.Repeat("t/", 2047)})
	add(tree.Entry{Path: "dev/null", Mode: tree.ModeChar | 0o666, Major: 1, Minor: 3})
	add(tree.Entry{Path: "dev/big", Mode: tree.ModeBlock | 0o660, Major: 259, Minor: 70001, GID: 6})
	add(tree.Entry{Path: "dev/fifo", Mode: tree.ModeFIFO | 0o600})
	add(tree.Entry{Path: "dev/sock", Mode: tree.ModeSocket | 0o755})
	for i := range 2000 {
		t.AddFile(fmt.Sprintf("long/%04d-%s", i, strings.Repeat("n", i%200)), 0o644, []byte{byte(i)})
	}
	// Sorts before "." and "..".
	t.AddFile("!bang/-dash", 0o644, nil)
	add(tree.Entry{Path: "tmp", Mode: tree.ModeDir | 0o1777, ModTime: epoch})
	return t
}

// describe renders a tree entry the way readBack does.
func describe(e, shown *tree.Entry, nlink uint32, fallback time.Time) string {
	t := e.ModTime
	if t.IsZero() {
		t = fallback
	}
	size, target := e.Size, ""
	switch e.Kind() {
	case tree.ModeSymlink:
		size, target = int64(len(e.Target)), e.Target
	case tree.ModeDir:
		size = -1
	}
	dev := uint32(0)
	if k := e.Kind(); k == tree.ModeChar || k == tree.ModeBlock {
		dev = deviceNumber(e.Major, e.Minor)
	}
	return fmt.Sprintf("%s %o %d:%d size %d nlink %d dev %d %d.%09d %q %q", shown.Path, e.Mode, e.UID, e.GID,
		size, nlink, dev, t.Unix(), t.Nanosecond(), target, fmt.Sprint(e.Xattrs))
}

func want(tr *tree.Tree, fallback time.Time) map[string]string {
	links, subdirs := map[string]uint32{}, map[string]uint32{}
	for _, e := range tr.All() {
		if e.LinkTo != "" {
			links[e.LinkTo]++
		} else if e.IsDir() && e.Path != "." {
			subdirs[filepath.Dir(e.Path)]++
		}
	}
	out := map[string]string{}
	for _, e := range tr.All() {
		src := e
		if e.LinkTo != "" {
			src = tr.Lookup(e.LinkTo)
		}
		nlink := 1 + links[src.Path]
		if src.IsDir() {
			nlink = 2 + subdirs[src.Path]
		}
		out[e.Path] = describe(src, e, nlink, fallback)
		if src.Kind() == tree.ModeRegular {
			b, _ := src.ReadFile()
			out[e.Path] += fmt.Sprintf(" %d %x", len(b), crc(b))
		}
	}
	return out
}

func crc(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// unixMode turns Go's mode bits into st_mode's.
func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, b := range []struct {
		from fs.FileMode
		to   uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.from != 0 {
			out |= b.to
		}
	}
	switch {
	case m.IsDir():
		out |= tree.ModeDir
	case m&fs.ModeSymlink != 0:
		out |= tree.ModeSymlink
	case m&fs.ModeCharDevice != 0:
		out |= tree.ModeChar
	case m&fs.ModeDevice != 0:
		out |= tree.ModeBlock
	case m&fs.ModeNamedPipe != 0:
		out |= tree.ModeFIFO
	case m&fs.ModeSocket != 0:
		out |= tree.ModeSocket
	default:
		out |= tree.ModeRegular
	}
	return out
}

// readBack describes an image as go-erofs sees it.
func readBack(image []byte) (map[string]string, error) {
	root, err := goerofs.Open(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	err = fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*goerofs.Stat)
		e := &tree.Entry{Path: p, Mode: unixMode(st.Mode), UID: st.UID, GID: st.GID, Size: st.Size,
			ModTime: time.Unix(int64(st.Mtime), int64(st.MtimeNs)), Xattrs: st.Xattrs}
		if len(e.Xattrs) == 0 {
			e.Xattrs = nil
		}
		if e.Kind() == tree.ModeSymlink {
			if e.Target, err = root.(fs.ReadLinkFS).ReadLink(p); err != nil {
				return err
			}
		}
		s := describe(e, e, uint32(st.Nlink), time.Time{})
		if k := e.Kind(); k == tree.ModeChar || k == tree.ModeBlock {
			s = strings.Replace(s, " dev 0 ", fmt.Sprintf(" dev %d ", st.Rdev), 1)
		}
		if e.Kind() == tree.ModeRegular {
			b, err := fs.ReadFile(root, p)
			if err != nil {
				return err
			}
			s += fmt.Sprintf(" %d %x", len(b), crc(b))
		}
		out[p] = s
		return nil
	})
	return out, err
}

func TestRoundTrip(t *testing.T) {
	tr := sample()
	image, _ := build(t, tr, Options{Time: epoch, Label: "sample"})
	got, err := readBack(image)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want(tr, epoch), got); diff != "" {
		t.Errorf("go-erofs sees something else (-want +got):\n%s", diff)
	}
}

func TestSameBytes(t *testing.T) {
	o := Options{Time: epoch, Label: "sample", UUID: [16]byte{1, 2, 3}}
	a, ra := build(t, sample(), o)
	b, rb := build(t, sample(), o)
	if !bytes.Equal(a, b) || ra != rb {
		t.Error("two builds of the same tree differ")
	}
	o.Time = epoch.Add(time.Second)
	if c, _ := build(t, sample(), o); bytes.Equal(a, c) {
		t.Error("the time of the volume is not in the image")
	}
}

// write puts an image into a file.
func write(t *testing.T, tr *tree.Tree) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "image")
	image, _ := build(t, tr, Options{Time: epoch, Label: "sample"})
	if err := os.WriteFile(name, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFsck(t *testing.T) {
	testenv.Need(t, "fsck.erofs")
	for name, tr := range map[string]*tree.Tree{"sample": sample(), "empty": tree.New()} {
		if out, err := exec.Command("fsck.erofs", "--extract", write(t, tr)).CombinedOutput(); err != nil {
			t.Errorf("%s: fsck.erofs: %v\n%s", name, err, out)
		}
	}
}

// The kernel is the reader that counts.
func TestKernelMount(t *testing.T) {
	testenv.Need(t, "mount")
	testenv.NeedRoot(t)
	tr := sample()
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "ro,loop", write(t, tr), dir).CombinedOutput(); err != nil {
		t.Skipf("this kernel cannot mount it: %v: %s", err, out)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	got, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, b := want(tr, epoch), want(got, time.Time{})
	if diff := cmp.Diff(a, b); diff != "" {
		t.Errorf("the kernel sees something else (-want +got):\n%s", diff)
	}
}

func TestRandomTrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := randomTree(t)
		image, _ := build(t, tr, Options{Time: epoch})
		got, err := readBack(image)
		if err != nil {
			t.Fatalf("go-erofs: %v", err)
		}
		if diff := cmp.Diff(want(tr, epoch), got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func randomTree(t *rapid.T) *tree.Tree {
	tr := tree.New()
	dirs, files := []string{"."}, []string(nil)
	name := rapid.StringMatching(`[ -.0-~é]{1,60}`).Filter(func(s string) bool { return s != "." && s != ".." })
	for range rapid.IntRange(0, 60).Draw(t, "entries") {
		p := tree.Clean(rapid.SampledFrom(dirs).Draw(t, "dir") + "/" + name.Draw(t, "name"))
		if tr.Lookup(p) != nil {
			continue
		}
		e := &tree.Entry{Path: p, Mode: uint32(rapid.IntRange(0, 0o7777).Draw(t, "perm")),
			UID: rapid.Uint32().Draw(t, "uid"), GID: rapid.Uint32().Draw(t, "gid"),
			ModTime: time.Unix(rapid.Int64Range(0, 1<<34).Draw(t, "sec"), rapid.Int64Range(0, 999999999).Draw(t, "nsec"))}
		if rapid.IntRange(0, 3).Draw(t, "attributes") == 0 {
			e.Xattrs = rapid.MapOfN(rapid.StringMatching(`(user|security|trusted)\.[a-z]{1,40}`),
				rapid.StringN(0, 400, 4000), 1, 6).Draw(t, "xattrs")
		}
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind < 4:
			e.Mode |= tree.ModeDir
			dirs = append(dirs, p)
		case kind < 7:
			size := rapid.SampledFrom([]int{0, 1, 100, maxInline - 1, maxInline, maxInline + 1, BlockSize, 2*BlockSize + 5}).Draw(t, "size")
			f := tr.AddFile(p, 0, bytes.Repeat([]byte{byte(len(p)), 7}, size/2+1)[:size])
			f.Mode, f.UID, f.GID, f.ModTime, f.Xattrs = tree.ModeRegular|e.Mode, e.UID, e.GID, e.ModTime, e.Xattrs
			files = append(files, p)
			continue
		case kind == 7:
			e.Mode |= tree.ModeSymlink
			e.Target = rapid.StringMatching(`[a-z/.]{1,300}`).Draw(t, "target")
		case kind == 8 && len(files) > 0:
			first := rapid.SampledFrom(files).Draw(t, "link to")
			if tree.Compare(first, p) < 0 {
				tr.Add(&tree.Entry{Path: p, LinkTo: first})
			}
			continue
		default:
			e.Mode |= tree.ModeChar
			e.Major, e.Minor = rapid.Uint32Range(0, 4095).Draw(t, "major"), rapid.Uint32Range(0, 1<<20-1).Draw(t, "minor")
		}
		tr.Add(e)
	}
	return tr
}

type failing struct{ after int }

func (f *failing) WriteAt(b []byte, _ int64) (int, error) {
	if f.after--; f.after < 0 {
		return 0, syscall.ENOSPC
	}
	return len(b), nil
}

func TestRefusals(t *testing.T) {
	base := func(e tree.Entry) *tree.Tree {
		tr := tree.New()
		tr.Add(&e)
		return tr
	}
	for name, tr := range map[string]*tree.Tree{
		"orphan":            base(tree.Entry{Path: "a/b", Mode: tree.ModeRegular}),
		"long name":         base(tree.Entry{Path: strings.Repeat("n", 256), Mode: tree.ModeRegular}),
		"dangling link":     base(tree.Entry{Path: "a", LinkTo: "b"}),
		"empty target":      base(tree.Entry{Path: "a", Mode: tree.ModeSymlink}),
		"unknown type":      base(tree.Entry{Path: "a", Mode: 0o777}),
		"unknown attribute": base(tree.Entry{Path: "a", Mode: tree.ModeRegular, Xattrs: map[string]string{"odd.name": "v"}}),
		"huge device":       base(tree.Entry{Path: "a", Mode: tree.ModeChar, Major: 1 << 12}),
		"short content":     base(tree.Entry{Path: "a", Mode: tree.ModeRegular, Size: 5000}),
	} {
		if _, err := Write(&memory{t: t}, tr, Options{}); err == nil || !strings.HasPrefix(err.Error(), "erofs: ") {
			t.Errorf("%s: got %v, want an error", name, err)
		}
	}
	if _, err := Write(&failing{after: 1}, sample(), Options{}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("full disk: got %v", err)
	}
	if _, err := Write(&memory{t: t}, tree.New(), Options{Label: strings.Repeat("l", 17)}); err == nil {
		t.Error("a label of 17 bytes was taken")
	}
}

type discard struct{}

func (discard) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// BenchmarkWrite measures what the writer itself costs: contents come from
// memory and go nowhere.
func BenchmarkWrite(b *testing.B) {
	tr := tree.New()
	block := make([]byte, 1<<20)
	for i := range 64 {
		tr.AddFile(fmt.Sprintf("big/%d", i), 0o644, block)
		for j := range 100 {
			tr.AddFile(fmt.Sprintf("small/%d/%d", i, j), 0o644, block[:j*20])
		}
	}
	var r Result
	before := cpu(b)
	for b.Loop() {
		var err error
		if r, err = Write(discard{}, tr, Options{}); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(r.Size)
	b.ReportMetric(float64(r.Size)*float64(b.N)/1e6/(cpu(b)-before).Seconds(), "MB/cpu-s")
}

// cpu is the time that this process took of processors.
func cpu(tb testing.TB) time.Duration {
	tb.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var _ io.WriterAt = (*memory)(nil)
