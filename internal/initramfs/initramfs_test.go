package initramfs

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"goldsmith/internal/tree"
)

const version = "6.1.0-1-amd64"

// sampleRoot makes a root with a few modules as depmod would describe them.
func sampleRoot() *tree.Tree {
	t := tree.New()
	dir := "usr/lib/modules/" + version + "/"
	deps := map[string]string{
		"kernel/drivers/md/dm-verity.ko":              "kernel/drivers/md/dm-mod.ko",
		"kernel/drivers/md/dm-mod.ko":                 "",
		"kernel/fs/erofs/erofs.ko":                    "kernel/lib/libcrc32c.ko",
		"kernel/lib/libcrc32c.ko":                     "",
		"kernel/fs/ext4/ext4.ko":                      "kernel/fs/jbd2/jbd2.ko kernel/lib/crc16.ko",
		"kernel/fs/jbd2/jbd2.ko":                      "",
		"kernel/lib/crc16.ko":                         "",
		"kernel/crypto/crc32c_generic.ko":             "",
		"kernel/arch/x86/crypto/crc32c-intel.ko":      "",
		"kernel/drivers/block/virtio_blk.ko":          "kernel/drivers/virtio/virtio_ring.ko",
		"kernel/drivers/virtio/virtio_ring.ko":        "",
		"kernel/drivers/char/hw_random/virtio-rng.ko": "kernel/drivers/virtio/virtio_ring.ko",
		"kernel/sound/loud.ko":                        "",
	}
	var dep strings.Builder
	for file, needs := range deps {
		t.AddFile(dir+file, 0o644, []byte("module "+file))
		dep.WriteString(file + ": " + needs + "\n")
	}
	t.AddFile(dir+"modules.dep", 0o644, []byte(dep.String()))
	t.AddFile(dir+"modules.builtin", 0o644, []byte("kernel/fs/overlayfs/overlay.ko\n"))
	t.AddFile(dir+"modules.softdep", 0o644, []byte("# comment\nsoftdep ext4 pre: crypto-crc32c post: loud\nsoftdep libcrc32c pre: crc32c\n"))
	t.AddFile(dir+"modules.alias", 0o644, []byte(`# comment
alias crypto-crc32c crc32c_intel
alias crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias crc32c crc32c_generic
alias virtio:d00000002v* virtio_blk
alias virtio:d00000004v* virtio_rng
alias pci:v*sv*sd*bc04* loud
`))
	return t
}

func config() Config {
	return Config{Init: []byte("init"), Root: sampleRoot(), Kernel: version, State: []string{"/var", "/srv"}, Time: time.Unix(1700000000, 0)}
}

const wantPlan = `kernel 6.1.0-1-amd64
module crc16
module crc32c_generic
module crc32c_intel
module dm_mod
module dm_verity dm_mod
module erofs libcrc32c
module ext4 crc16 jbd2
before ext4 crc32c_intel crc32c_generic
module jbd2
module libcrc32c
before libcrc32c crc32c_intel crc32c_generic
module virtio_blk virtio_ring
module virtio_ring
module virtio_rng virtio_ring
alias virtio:d00000002v* virtio_blk
alias virtio:d00000004v* virtio_rng
load dm_verity
load erofs
load ext4
state /var
state /srv
`

func TestBuild(t *testing.T) {
	var out, again bytes.Buffer
	plan, err := Build(&out, config())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantPlan, string(plan.Marshal())); diff != "" {
		t.Errorf("plan (-want +got):\n%s", diff)
	}
	if _, err := Build(&again, config()); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("two builds differ (%v)", err)
	}
	got := map[string]string{}
	var packed bytes.Buffer
	if err := Compress(&packed, out.Bytes()); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(&packed)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := cpio.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b)
		if !h.ModTime.Equal(config().Time) || h.Uid != 0 {
			t.Errorf("%s: time %v, owner %d", h.Name, h.ModTime, h.Uid)
		}
	}
	if got["init"] != "init" || got[ConfigPath] != wantPlan || got["modules/virtio_rng.ko"] != "module kernel/drivers/char/hw_random/virtio-rng.ko" {
		t.Errorf("wrong contents: %q", got)
	}
	if _, ok := got["modules/loud.ko"]; ok || len(got) != 2+12+6 {
		t.Errorf("%d entries: %v", len(got), got)
	}
}

// A live system needs no partition of its own, and looks for its root on what
// people carry about only where the root is on a disk.
func TestLive(t *testing.T) {
	for where, driver := range map[Live]bool{LiveDisk: true, LiveFile: false} {
		c := config()
		dir := "usr/lib/modules/" + version + "/"
		dep := c.Root.Lookup(dir + "modules.dep")
		text, err := dep.ReadFile()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []string{"squashfs", "loop", "sr_mod"} {
			text = append(text, "kernel/"+m+".ko:\n"...)
			c.Root.AddFile(dir+"kernel/"+m+".ko", 0o644, []byte(m))
		}
		c.Root.AddFile(dir+"modules.dep", 0o644, text)
		c.Live = where
		plan, err := Build(io.Discard, c)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"squashfs", "loop"}, plan.Load); diff != "" { // overlay is built in
			t.Errorf("%s: loads (-want +got):\n%s", where, diff)
		}
		if (plan.Modules["sr_mod"] != nil) != driver || plan.Modules["ext4"] != nil || !strings.HasSuffix(string(plan.Marshal()), "\nlive "+string(where)+"\n") {
			t.Errorf("%s:\n%s", where, plan.Marshal())
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"no init":    func(c *Config) { c.Init = nil },
		"no kernel":  func(c *Config) { c.Kernel = "5.0" },
		"bad kernel": func(c *Config) { c.Kernel = "../x" },
		"no ext4": func(c *Config) {
			c.Root.AddFile("usr/lib/modules/"+version+"/modules.dep", 0o644, []byte("a/erofs.ko:\n"))
		},
		"malformed dep": func(c *Config) { c.Root.AddFile("usr/lib/modules/"+version+"/modules.dep", 0o644, []byte("what\n")) },
		"missing file":  func(c *Config) { c.Root.Remove("usr/lib/modules/" + version + "/kernel/fs/ext4/ext4.ko") },
	} {
		c := config()
		change(&c)
		if _, err := Build(io.Discard, c); err == nil || !strings.HasPrefix(err.Error(), "initramfs: ") {
			t.Errorf("%s: got %v, want an error", name, err)
		}
	}
}

func TestCircularDependencies(t *testing.T) {
	c := config()
	dir := "usr/lib/modules/" + version + "/"
	c.Root.AddFile(dir+"modules.softdep", 0o644, []byte("softdep ext4 pre: jbd2\nsoftdep jbd2 pre: ext4\n"))
	if _, err := Build(io.Discard, c); err != nil {
		t.Error(err)
	}
}

func TestDecompress(t *testing.T) {
	want := bytes.Repeat([]byte("module"), 1000)
	pack := func(wc io.WriteCloser, err error, b *bytes.Buffer) []byte {
		if err == nil {
			_, err = wc.Write(want)
		}
		if err == nil {
			err = wc.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	var gz, x, zst bytes.Buffer
	xw, xerr := xz.NewWriter(&x)
	zw, zerr := zstd.NewWriter(&zst)
	for ext, data := range map[string][]byte{
		".ko": want, ".gz": pack(gzip.NewWriter(&gz), nil, &gz),
		".xz": pack(xw, xerr, &x), ".zst": pack(zw, zerr, &zst),
	} {
		if got, err := decompress(ext, data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v", ext, len(got), err)
		}
	}
	for _, ext := range []string{".gz", ".xz", ".zst", ".rar"} {
		if _, err := decompress(ext, []byte("rubbish")); err == nil {
			t.Errorf("%s: rubbish was taken", ext)
		}
	}
}

func TestArchive(t *testing.T) {
	tr := tree.New()
	tr.AddFile("a", 0o644, []byte("content"))
	tr.Add(&tree.Entry{Path: "b", LinkTo: "a"})
	tr.Add(&tree.Entry{Path: "c", Mode: tree.ModeSymlink | 0o777, Target: "a"})
	var out bytes.Buffer
	if err := Archive(&out, tr, time.Time{}); err != nil {
		t.Fatal(err)
	}
	r := cpio.NewReader(&out)
	var got []string
	for {
		h, err := r.Next()
		if err != nil {
			break
		}
		b, _ := io.ReadAll(r)
		got = append(got, h.Name+" "+string(b)+h.Linkname)
	}
	if diff := cmp.Diff([]string{"a content", "b content", "c a"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	tr.Add(&tree.Entry{Path: "d", Mode: tree.ModeFIFO})
	if err := Archive(io.Discard, tr, time.Time{}); err == nil {
		t.Error("a pipe was stored")
	}
}

func TestKernels(t *testing.T) {
	tr := sampleRoot()
	tr.AddFile("usr/lib/modules/5.10/modules.dep", 0o644, nil)
	tr.AddFile("usr/lib/modules/broken/kernel/x.ko", 0o644, nil)
	if diff := cmp.Diff([]string{"5.10", version}, Kernels(tr)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
