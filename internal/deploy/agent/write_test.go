package agent

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/deploy"
	"goldsmith/internal/update/fetch"
)

// power is a disk whose power goes after that many writes and flushes; it may
// also change what is written.
type power struct {
	file
	left   int // negative: it never goes
	change func([]byte) []byte
}

var errPower = errors.New("power cut")

func (p *power) use() error {
	if p.left == 0 {
		return errPower
	}
	p.left--
	return nil
}

func (p *power) WriteAt(b []byte, off int64) (int, error) {
	if err := p.use(); err != nil {
		return 0, err
	}
	if p.change != nil {
		b = p.change(bytes.Clone(b))
	}
	return p.file.WriteAt(b, off)
}

func (p *power) Sync() error {
	if err := p.use(); err != nil {
		return err
	}
	return p.file.Sync()
}

// whole writes an image as a task does, with p between.
func whole(t *testing.T, b *bed, disk string, seed []byte, p *power) error {
	t.Helper()
	image, err := fetch.Open(t.Context(), "oci:"+b.layout.Dir()+"@"+b.digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	target, err := openTarget(disk, image, int64(len(seed)), func(string, ...any) {})
	if err != nil {
		return err
	}
	defer target.dev.Close()
	p.file, target.dev.file = target.dev.file, p
	if err := target.write(t.Context(), nil); err != nil {
		return err
	}
	if err := target.verify(t.Context(), nil); err != nil {
		return err
	}
	if err := target.fit(seed); err != nil {
		return err
	}
	return target.disk.commit()
}

// At whatever write the power goes: where the first sector is there, all of the
// rest is.
func TestPowerCut(t *testing.T) {
	b := newBed(t)
	disk := b.disk(t, "vda", 16*mib)
	seed := noise(7, 5000)
	for n := 0; ; n++ {
		err := whole(t, b, disk, seed, &power{left: n})
		got, readErr := os.ReadFile(disk)
		if readErr != nil {
			t.Fatal(readErr)
		}
		if err != nil && !errors.Is(err, errPower) {
			t.Fatalf("after %d writes: %v", n, err)
		}
		started := !bytes.Equal(got[:512], make([]byte, 512))
		if started && n > 0 {
			if !bytes.Equal(got[mib:7*mib], b.image[mib:7*mib]) || !bytes.Contains(got[8*mib:], seed) {
				t.Fatalf("after %d writes the disk can be started, and is not whole", n)
			}
			if !bytes.HasPrefix(got[len(got)-512:], []byte("EFI PART")) {
				t.Fatalf("after %d writes the disk can be started, and has no backup table", n)
			}
		}
		if err == nil {
			if !started || n < 20 {
				t.Errorf("done after %d writes; the first sector is there: %v", n, started)
			}
			break
		}
		// The next one finds an old disk.
		if err := os.WriteFile(disk, b.image, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(disk, 16*mib); err != nil {
			t.Fatal(err)
		}
	}
}

// A disk that keeps something else than what it was given is found out.
func TestReadBack(t *testing.T) {
	b := newBed(t)
	disk := b.disk(t, "vda", 16*mib)
	flip := func(b []byte) []byte {
		if len(b) > 20000 && b[0] != 0 {
			b[10000] ^= 1
		}
		return b
	}
	err := whole(t, b, disk, nil, &power{left: -1, change: flip})
	if err == nil || !strings.Contains(err.Error(), "not what was written") || bootable(t, disk) {
		t.Errorf("%v; it can be started: %v", err, bootable(t, disk))
	}
	seed := noise(7, 5000)
	err = whole(t, b, disk, seed, &power{left: -1, change: func(b []byte) []byte {
		if len(b) == len(seed) {
			b[0] ^= 1
		}
		return b
	}})
	if err == nil || !strings.Contains(err.Error(), "the seed is not") || bootable(t, disk) {
		t.Errorf("%v; it can be started: %v", err, bootable(t, disk))
	}
}

func TestSizes(t *testing.T) {
	b := newBed(t)
	exact := b.disk(t, "vda", len(b.image))
	if err := whole(t, b, exact, nil, &power{left: -1}); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(exact); !bytes.Equal(got, b.image) {
		t.Error("a disk of the image's size is not the image")
	}
	if err := whole(t, b, exact, []byte("x"), &power{left: -1}); err == nil || !strings.Contains(err.Error(), "image and seed need") {
		t.Errorf("no room for a seed: %v", err)
	}
	if err := whole(t, b, b.disk(t, "vdb", len(b.image)+mib), []byte("x"), &power{left: -1}); err != nil {
		t.Errorf("just room for a seed: %v", err)
	}
	less := b.disk(t, "vdb", len(b.image)+mib-512)
	if err := whole(t, b, less, []byte("x"), &power{left: -1}); err == nil || !bootable(t, less) {
		t.Errorf("a sector too little for a seed: %v, or the disk was touched", err)
	}
	if _, err := openDevice(b.disk(t, "vdb", mib)); err == nil || !strings.Contains(err.Error(), "too small") {
		t.Errorf("a small disk: %v", err)
	}
}

// What is read and written of a disk in pieces is what is read and written of
// memory, wherever the edges lie.
func TestStaged(t *testing.T) {
	b := newBed(t)
	const size = 5*mib + 100
	dev, err := openDevice(b.disk(t, "vda", size))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	s, err := stage(dev)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, size)
	if _, err := s.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	for i, r := range [][2]int64{{0, 10}, {mib - 5, 10}, {mib, mib}, {size - mib - 7, 14}, {size - 3, 3}, {10, size - 20}} {
		data := noise(byte(i), int(r[1]))
		copy(want[r[0]:], data)
		if _, err := s.WriteAt(data, r[0]); err != nil {
			t.Fatal(err)
		}
		zero := [2]int64{r[0] + r[1]/3, r[1] / 3}
		clear(want[zero[0]:][:zero[1]])
		if err := s.Zero(zero[0], zero[1]); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, size)
		if _, err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("range %d: %v", i, err)
		}
	}
	if _, err := s.WriteAt(make([]byte, 2), size-1); err == nil {
		t.Error("a write beyond the end")
	}
	if bootable(t, dev.Name()) {
		t.Error("the edges are on the disk before commit")
	}
	if err := s.commit(); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(dev.Name()); !bytes.Equal(got, want) {
		t.Error("the disk differs after commit")
	}
}

// Executables slot in between the built-in steps, are told what is wished, and
// name the disk.
func TestSteps(t *testing.T) {
	b := newBed(t)
	b.disk(t, "vda", 16*mib)
	b.disk(t, "vdb", 16*mib)
	md := filepath.Join(b.dir, "dev/md127")
	if err := os.WriteFile(md, make([]byte, 15*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	b.write(t, "steps/20-raid1", "#!/bin/sh\ncat >"+b.dir+"/in\necho \"$GOLDSMITH_LEVEL: $GOLDSMITH_DISKS\" >&2\n"+
		"echo '{\"disk\": \""+md+"\"}'\n", 0o755)
	b.write(t, "steps/85-late", "#!/bin/sh\necho \"late: $GOLDSMITH_DISK\" >&2\n", 0o755)
	task := b.task()
	task.Storage.Level = deploy.LevelRAID1
	r := b.deploy(t, task)
	if !r.OK() || r.Disk != md {
		t.Fatalf("%+v", r)
	}
	in, _ := os.ReadFile(filepath.Join(b.dir, "in"))
	for _, want := range []string{`"level":"raid1"`, `/dev/vda","`, `"inventory":{"arch":"amd64"`} {
		if !bytes.Contains(in, []byte(want)) {
			t.Errorf("the step read %s; want %s", in, want)
		}
	}
	log := strings.Join(b.said, "\n")
	for _, want := range []string{"20-raid1: raid1: " + b.dir + "/dev/vda " + b.dir + "/dev/vdb\n", "85-late: late: " + md + "\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
	for want, script := range map[string]string{
		"no controller": "echo no controller >&2; exit 1", "want a path below": `echo '{"disk": "/etc/passwd"}'`,
		"its answer: invalid": "echo nonsense", "more than 65536 bytes": "head -c 70000 /dev/zero",
	} {
		b.write(t, "steps/20-raid1", "#!/bin/sh\n"+script+"\n", 0o755)
		if r := b.deploy(t, task); r.Step != "20-raid1" || !strings.Contains(r.Error, want) {
			t.Errorf("%s: %+v", script, r)
		}
	}
	b.write(t, "steps/readme", "", 0o644)
	if r := b.deploy(t, task); r.Step != "00-steps" || !strings.Contains(r.Error, "want NN-name") {
		t.Errorf("a file that is no step: %+v", r)
	}
}

// After cleaning nothing of an old disk's signatures is left.
func TestClean(t *testing.T) {
	b := newBed(t)
	disk := b.disk(t, "vda", 16*mib)
	if err := whole(t, b, disk, nil, &power{left: -1}); err != nil {
		t.Fatal(err)
	}
	b.disk(t, "vdb", 100*mib)
	b.write(t, "sys/block/sr0/size", "100", 0o644)
	usb := b.disk(t, "sda", 16*mib)
	b.write(t, "sys/block/sda/removable", "1", 0o644)
	if r := b.deploy(t, deploy.Task{Kind: deploy.Clean}); !r.OK() {
		t.Fatalf("%+v", r)
	}
	got, _ := os.ReadFile(disk)
	if bootable(t, disk) || !bytes.Equal(got[mib:2*mib], make([]byte, mib)) || !bytes.Equal(got[6*mib:7*mib], make([]byte, mib)) {
		t.Error("signatures are left")
	}
	if got, _ := os.ReadFile(filepath.Join(b.dir, "dev/vdb")); !bytes.Equal(got[64*mib:][:4096], make([]byte, 4096)) {
		t.Error("the second superblock of a Btrfs is left")
	}
	if got, _ := os.ReadFile(usb); !bytes.Equal(got, noise(9, 16*mib)) {
		t.Error("a removable disk was changed")
	}
	b.disk(t, "vdc", mib)
	if r := b.deploy(t, deploy.Task{Kind: deploy.Clean}); r.Step != "50-clean" || !strings.Contains(r.Error, "vdc: ") {
		t.Errorf("a disk that cannot be cleaned: %+v", r)
	}
}

func TestInventory(t *testing.T) {
	b := newBed(t)
	b.disk(t, "sda", 16*mib)
	for name, text := range map[string]string{
		"sys/block/sda/device/model": "SSD 870     \n", "sys/block/sda/device/vpd_pg80": "\x00\x80\x00\x04S1  ",
		"sys/block/sda/queue/rotational": "1\n", "sys/block/nvme0n1/device/serial": "N7\n", "sys/block/nvme0n1/size": "8\n",
		"sys/block/loop0/size": "8", "sys/block/md0/size": "8", "sys/block/mmcblk0boot0/size": "8", "sys/block/mmcblk0/size": "16",
		"sys/class/net/eth0/address": "52:54:00:00:00:01\n", "sys/class/net/eth0/carrier": "1\n",
		"sys/class/net/eth0/speed": "10000\n", "sys/class/net/eth0/device/x": "", "sys/class/net/lo/address": "00:00:00:00:00:00",
		"sys/class/dmi/id/sys_vendor": "ACME\n", "sys/class/dmi/id/product_uuid": "ABCDEF\n", "sys/firmware/efi/x": "",
		"proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast\nprocessor\t: 1\nmodel name\t: Fast\n",
		"proc/meminfo": "MemTotal:        2048 kB\nMemFree: 1 kB\n",
	} {
		b.write(t, name, text, 0o644)
	}
	if err := os.Symlink("../../../drivers/e1000e", filepath.Join(b.dir, "sys/class/net/eth0/device/driver")); err != nil {
		t.Fatal(err)
	}
	got, err := b.Inventory()
	if err != nil {
		t.Fatal(err)
	}
	if got.Firmware != "uefi" || got.Vendor != "ACME" || got.UUID != "abcdef" || got.Memory != 2<<20 ||
		got.CPU != (deploy.CPU{Model: "Fast", Count: 2}) {
		t.Errorf("%+v", got)
	}
	dev := filepath.Join(b.dir, "dev") + "/"
	want := []deploy.Disk{{Path: dev + "mmcblk0", Size: 16 * 512}, {Path: dev + "nvme0n1", Size: 8 * 512, Serial: "N7"},
		{Path: dev + "sda", Size: 16 * mib, Sector: 512, Model: "SSD 870", Serial: "S1", Rotational: true}}
	if len(got.Disks) != 3 || got.Disks[0] != want[0] || got.Disks[1] != want[1] || got.Disks[2] != want[2] {
		t.Errorf("disks %+v; want %+v", got.Disks, want)
	}
	nic := deploy.NIC{Name: "eth0", MAC: "52:54:00:00:00:01", Link: true, Speed: 10000, Driver: "e1000e"}
	if len(got.NICs) != 1 || got.NICs[0] != nic {
		t.Errorf("network cards %+v; want %+v", got.NICs, nic)
	}
}
