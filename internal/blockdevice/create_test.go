package blockdevice

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"goldsmith/internal/testenv"
)

// attach makes an image file of a plan's disk and a loop device of it.
func attach(t *testing.T, img Image) (file, device string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), img.Name+".raw")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, img.Size); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--show", "-P", "-f", "-b", "512", file).Output()
	if err != nil {
		t.Skipf("no loop device is to be had: %v", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "-d", device).Run() })
	return file, device
}

// kernelMounts says whether the running kernel has a file system.
func kernelMounts(name string) bool {
	b, _ := os.ReadFile("/proc/filesystems")
	return strings.Contains(string(b), "\t"+name+"\n")
}

const createMBR = `
- local_loop:
    name: image0
    size: 200MiB
- partitioning:
    base: image0
    label: mbr
    partitions:
      - name: root
        flags: [ boot, primary ]
        size: 64MiB
        mkfs:
          type: ext4
          label: rootfs
          opts: -E lazy_itable_init=0
          mount:
            mount_point: /
            fstab: {fsck-passno: 1}
      - name: swap
        size: 16MiB
        type: '0x82'
        mkfs: {type: swap, mount: {mount_point: swap, fstab: {}}}
      - name: data
        size: 100%
        mkfs: {type: ext4, opts: -O ^has_journal, mount: {mount_point: /srv/data, fstab: {}}}
`

const createGPT = `
- local_loop: {name: image0, size: 200MiB}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - name: ESP
        type: EF00
        size: 64MiB
        mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {}}}
      - name: root
        size: 100%
        mkfs: {type: ext4, label: r, mount: {mount_point: /, fstab: {}}}
`

const createLVM = `
- local_loop: {name: image0, size: 200MiB}
- partitioning:
    base: image0
    label: mbr
    partitions: [{name: p, size: 100%, flags: [primary], type: 8e}]
- lvm:
    name: lvm
    pvs: [{name: pv, base: p, options: [--force]}]
    vgs: [{name: gs-test, base: [pv]}]
    lvs:
      - {name: root, base: gs-test, size: 90M}
      - {name: var, base: gs-test, extents: 100%FREE}
- mkfs: {name: r, base: root, type: ext4, label: r, mount: {mount_point: /, fstab: {}}}
- mkfs: {name: v, base: var, type: ext4, mount: {mount_point: /var, fstab: {}}}
`

func TestCreate(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "losetup", "mkfs.ext4", "mkfs.vfat", "mkswap", "blkid", "sfdisk")
	for _, c := range []struct{ name, config, mounts, blkid string }{
		{"mbr", createMBR, "/ /srv/data", "rootfs=ext4 mkfs_swap=swap mkfs_data=ext4"},
		{"gpt", createGPT, "/ /boot/efi", "MKFS_ESP=vfat r=ext4"},
		{"lvm", createLVM, "/ /var", "=LVM2_member r=ext4 v=ext4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch _, err := os.Stat("/sys/class/misc/device-mapper"); {
			case c.name == "lvm" && err != nil:
				t.Skip("this kernel has no device mapper")
			case c.name == "lvm":
				testenv.Need(t, "lvm")
			case c.name == "gpt" && !kernelMounts("vfat"):
				t.Skip("this kernel has no vfat")
			}
			root := filepath.Join(t.TempDir(), "mnt")
			plan := mustPlan(t, c.config, Params{Seed: "test", Root: root})
			file, dev := attach(t, plan.Images()[0])
			var log bytes.Buffer
			d, err := plan.Create(t.Context(), map[string]string{"image0": dev}, &log)
			if err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
			defer d.Umount(t.Context())
			var points []string
			for _, m := range d.mounted {
				points = append(points, "/"+strings.TrimPrefix(strings.TrimPrefix(m.dir, root), "/"))
				if err := os.WriteFile(filepath.Join(m.dir, "probe"), []byte(m.dir), 0o600); err != nil {
					t.Error(err)
				}
			}
			if got := strings.Join(points, " "); got != c.mounts {
				t.Errorf("mounted %s, want %s", got, c.mounts)
			}
			var found []string
			for _, n := range d.names {
				label, _ := exec.Command("blkid", "-p", "-o", "value", "-s", "LABEL", d.paths[n]).Output()
				kind, _ := exec.Command("blkid", "-p", "-o", "value", "-s", "TYPE", d.paths[n]).Output()
				if len(kind) > 0 {
					found = append(found, strings.TrimSpace(string(label))+"="+strings.TrimSpace(string(kind)))
				}
			}
			if got := strings.Join(found, " "); got != c.blkid {
				t.Errorf("blkid finds %s, want %s", got, c.blkid)
			}
			if err := d.Umount(t.Context()); err != nil {
				t.Errorf("Umount: %v", err)
			}
			if err := d.Umount(t.Context()); err != nil {
				t.Errorf("Umount again: %v", err)
			}
			if out, err := exec.Command("sfdisk", "--verify", file).CombinedOutput(); err != nil {
				t.Errorf("sfdisk --verify: %v\n%s", err, out)
			}
		})
	}
}

// What a failed Create made is gone again.
func TestCreateRollsBack(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "losetup", "mkfs.ext4")
	root := filepath.Join(t.TempDir(), "mnt")
	config := strings.Replace(createMBR, "-O ^has_journal", "--no-such-option", 1)
	plan := mustPlan(t, config, Params{Root: root})
	_, dev := attach(t, plan.Images()[0])
	var log bytes.Buffer
	d, err := plan.Create(t.Context(), map[string]string{"image0": dev}, &log)
	if err == nil || !strings.Contains(err.Error(), "mkfs mkfs_data: mkfs.ext4") {
		t.Errorf("Create: %v", err)
	}
	if err := d.Umount(t.Context()); err != nil {
		t.Errorf("Umount after a failed Create: %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("%s is still mounted (%v)", root, err)
	}
}

func TestCommands(t *testing.T) {
	const id = "01234567-89ab-8def-8123-456789abcdef"
	for _, c := range []struct {
		fs   filesystem
		want string
	}{
		{filesystem{kind: "ext4", label: "a"}, "mkfs.ext4 -E hash_seed=" + id + " -L a -U " + id + " -q /dev/x"},
		{filesystem{kind: "ext4", label: "a", opts: []string{"-E", "resize=9", "-i", "4096"}},
			"mkfs.ext4 -E resize=9,hash_seed=" + id + " -i 4096 -L a -U " + id + " -q /dev/x"},
		{filesystem{kind: "ext3", label: "a", opts: []string{"-Eresize=9"}},
			"mkfs.ext3 -Eresize=9,hash_seed=" + id + " -L a -U " + id + " -q /dev/x"},
		{filesystem{kind: "xfs", label: "a", opts: []string{"-m", "crc=1"}},
			"mkfs.xfs -m crc=1 -L a -m uuid=" + id + " -q /dev/x"},
		{filesystem{kind: "vfat", label: "A"}, "mkfs.vfat --invariant -i 01234567 -n A /dev/x"},
		{filesystem{kind: "vfat", label: "A", opts: []string{"-i", "12345678"}}, "mkfs.vfat -i 12345678 -n A /dev/x"},
		{filesystem{kind: "swap", label: "s"}, "mkswap -L s -U " + id + " /dev/x"},
		{filesystem{kind: "jfs", label: "s"}, "mkfs.jfs -L s /dev/x"},
	} {
		c.fs.uuid = id
		if diff := cmp.Diff(c.want, strings.Join(c.fs.command("/dev/x"), " ")); diff != "" {
			t.Error(diff)
		}
	}
}
