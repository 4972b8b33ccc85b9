package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/disk"
	"goldsmith/internal/fat"
	"goldsmith/internal/registry"
	"goldsmith/internal/release"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
	"goldsmith/internal/trust"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imgupdate": main})
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"machine": machine, "publish": publish, "lose": lose,
		},
	})
}

// write makes the disk of a version.
func write(ts *testscript.TestScript, file, version string) *disk.Layout {
	t := tree.New()
	const kernel, efi = "6.1.0-1-amd64", "usr/lib/systemd/boot/efi/"
	t.AddFile("boot/vmlinuz-"+kernel, 0o644, append([]byte("MZ kernel"), make([]byte, 5000)...))
	t.AddFile(efi+"linuxx64.efi.stub", 0o644, testenv.EFIProgram())
	t.AddFile(efi+"systemd-bootx64.efi", 0o644, []byte("MZ boot loader"))
	modules := "usr/lib/modules/" + kernel + "/"
	t.AddFile(modules+"modules.dep", 0o644, []byte("kernel/dm-verity.ko:\nkernel/erofs.ko:\nkernel/ext4.ko:\n"))
	t.AddFile(modules+"modules.builtin", 0o644, []byte("kernel/overlay.ko\n"))
	for _, m := range []string{"dm-verity", "erofs", "ext4"} {
		t.AddFile(modules+"kernel/"+m+".ko", 0o644, []byte(m))
	}
	t.AddFile("usr/share/shared", 0o644, bytes.Repeat([]byte("shared by all versions "), 1<<17))
	t.AddFile("usr/share/own", 0o644, []byte("version "+version))
	f, err := os.Create(file)
	ts.Check(err)
	defer f.Close()
	l, err := disk.Write(context.Background(), f, disk.Config{
		Name: "demo", Version: version, Root: t, Init: []byte("init"), Time: time.Unix(1700000000, 0),
		ESPSize: 40 << 20, StateSize: 16 << 20, RootSlot: 16 << 20,
	})
	ts.Check(err)
	return l
}

// machine DIR makes a machine that runs version 1: DIR/disk, its EFI partition's
// files in DIR/esp, and DIR/boot.json.
func machine(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: machine DIR")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o755))
	file := filepath.Join(dir, "disk")
	l := write(ts, file, "1")
	f, err := os.Open(file)
	ts.Check(err)
	defer f.Close()
	for _, p := range l.Partitions {
		if p.Name != "esp" {
			continue
		}
		volume, err := fat.Open(io.NewSectionReader(f, p.Start, p.Size))
		ts.Check(err)
		program, err := volume.ReadFile(l.Boot.UKI, 1<<20)
		ts.Check(err)
		name := filepath.Join(dir, "esp", l.Boot.UKI)
		ts.Check(os.MkdirAll(filepath.Dir(name), 0o755))
		ts.Check(os.WriteFile(name, program, 0o644))
	}
	boot, err := json.Marshal(map[string]string{"root_hash": l.Root.RootHash, "slot": "a",
		"disk": file, "firmware": "uefi"})
	ts.Check(err)
	ts.Check(os.WriteFile(filepath.Join(dir, "boot.json"), boot, 0o600))
	manifest := filepath.Join(dir, "root/usr/share/goldsmith/manifest.json")
	ts.Check(os.MkdirAll(filepath.Dir(manifest), 0o755))
	ts.Check(os.WriteFile(manifest, []byte(`{"name": "demo", "version": "1"}`), 0o600))
}

// lose DISK NAME takes a file out of the root directory of a disk's EFI
// partition, and leaves its clusters as they are.
func lose(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: lose DISK NAME")
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	at := bytes.Index(b, []byte(args[1]))
	if at < 0 {
		ts.Fatalf("%s is not there", args[1])
	}
	b[at] = 0xe5
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o600))
}

// publish LAYOUT VERSION [KEYDIR] puts a version into a layout, signs it where
// there are keys, makes these where there are none, and sets $vVERSION to its
// digest.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: publish LAYOUT VERSION [KEYDIR]")
	}
	file := ts.MkAbs("disk-" + args[1])
	l := write(ts, file, args[1])
	raw, err := os.ReadFile(file)
	ts.Check(err)
	sum := sha256.Sum256(raw)
	var r release.Release
	l.Describe(&r)
	images, err := registry.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	digest, _, err := images.PutImage(context.Background(), file, registry.Image{
		Name: "demo", Version: args[1], Arch: runtime.GOARCH, Size: int64(len(raw)), SHA256: hex.EncodeToString(sum[:]), Root: r.Root, UKI: r.UKI,
	})
	ts.Check(err)
	ts.Setenv("v"+args[1], digest)
	if len(args) == 2 {
		return
	}
	key := signer(ts, ts.MkAbs(args[2]))
	envelope, err := trust.Sign(digest, trust.Predicate{Name: "demo", Version: args[1], Arch: runtime.GOARCH}, key)
	ts.Check(err)
	_, err = images.Attach(digest, registry.SignatureType, nil,
		registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: envelope})
	ts.Check(err)
}

// signer is the key of a directory; its public half lies there as the trust
// directory of a machine has it.
func signer(ts *testscript.TestScript, dir string) *trust.PrivateKey {
	name := filepath.Join(dir, "private")
	if text, err := os.ReadFile(name); err == nil {
		key, err := trust.ParsePrivate(text)
		ts.Check(err)
		return key
	}
	key, err := trust.NewKey(false)
	ts.Check(err)
	text, err := key.PEM()
	ts.Check(err)
	ts.Check(os.MkdirAll(dir, 0o755))
	ts.Check(os.WriteFile(name, text, 0o600))
	ts.Check(os.WriteFile(filepath.Join(dir, "test.pub"), key.Public.PEM(), 0o644))
	return key
}
