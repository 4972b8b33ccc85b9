package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

const version = "6.1.0-1-amd64"

func sampleRoot() *tree.Tree {
	t := tree.New()
	lib := "usr/lib/modules/" + version + "/"
	t.AddFile("boot/vmlinuz-"+version, 0o644, append([]byte("MZ kernel"), make([]byte, 5000)...))
	t.AddFile("boot/initrd.img-"+version, 0o644, []byte("unwanted"))
	t.Add(&tree.Entry{Path: "vmlinuz", Mode: tree.ModeSymlink | 0o777, Target: "boot/vmlinuz-" + version})
	t.AddFile(efiDir+"linuxx64.efi.stub", 0o644, testenv.EFIProgram())
	t.AddFile(efiDir+"systemd-bootx64.efi", 0o644, []byte("MZ boot loader"))
	boot, core := make([]byte, sector), make([]byte, 3*sector+100)
	copy(boot, "boot")
	copy(boot[510:], "\x55\xaa")
	copy(core[sector:], "core")
	le.PutUint16(core[coreLength:], 3)
	copy(core[coreSegment:], grubSegment)
	t.AddFile(GrubDir+"/boot.img", 0o644, boot)
	t.AddFile(GrubDir+"/core.img", 0o644, core)
	t.AddFile(lib+"modules.dep", 0o644, []byte("kernel/dm-verity.ko:\nkernel/erofs.ko:\nkernel/ext4.ko:\n"))
	t.AddFile(lib+"modules.builtin", 0o644, []byte("kernel/overlay.ko\n"))
	t.AddFile(lib+"kernel/dm-verity.ko", 0o644, []byte("dm-verity"))
	t.AddFile(lib+"kernel/erofs.ko", 0o644, []byte("erofs"))
	t.AddFile(lib+"kernel/ext4.ko", 0o644, []byte("ext4"))
	t.AddFile("usr/lib/os-release", 0o644, []byte("ID=debian\nPRETTY_NAME=\"Debian\"\nIMAGE_VERSION=old\n"))
	t.AddFile(ManifestFile, 0o644, []byte(`{"name":"demo"}`))
	t.AddFile("var/lib/dpkg/status", 0o644,
		[]byte("Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:1.2\n\n"))
	t.AddFile("var/big", 0o644, bytes.Repeat([]byte("big"), 1<<20))
	t.Add(&tree.Entry{Path: "var/big2", LinkTo: "var/big"})
	return t
}

func sampleConfig() Config {
	return Config{Name: "demo", Version: "1.2", Root: sampleRoot(), Init: []byte("init"),
		Time:    time.Unix(1700000000, 0),
		ESPSize: 40 * mib, StateSize: 16 * mib, Cmdline: " extra=1 "}
}

// create writes a disk into a temporary file.
func create(t *testing.T, c Config) (string, *Layout, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := Write(t.Context(), f, c)
	return f.Name(), l, err
}

func mustCreate(t *testing.T, c Config) (string, *Layout) {
	t.Helper()
	name, l, err := create(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return name, l
}

// extract puts a partition into a file of its own.
func extract(t *testing.T, disk string, p *Partition) string {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), p.Name)
	if err := os.WriteFile(name, b[p.Start:p.Start+p.Size], 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	testenv.Need(t, args[0])
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func TestLayout(t *testing.T) {
	name, l := mustCreate(t, sampleConfig())
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, l.Size, sector)
	if err != nil {
		t.Fatal(err)
	}
	if table.GUID != l.GUID || table.Backup {
		t.Errorf("disk GUID %s, want %s; backup %v", table.GUID, l.GUID, table.Backup)
	}
	var got []Partition
	for _, p := range table.Partitions {
		got = append(got, Partition{Number: p.Number, Name: p.Name, Type: p.Type, GUID: p.GUID, Start: p.Start,
			Size: p.Size, attributes: p.Attributes})
	}
	var want []Partition
	for _, p := range l.Partitions {
		p.Filesystem, p.Label, p.SHA256, p.Used = "", "", "", 0
		want = append(want, p)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Partition{})); diff != "" {
		t.Errorf("partition table (-want +got):\n%s", diff)
	}
	a := l.part("root-a")
	if both := strings.ReplaceAll(a.GUID+l.part("verity-a").GUID, "-", ""); both != l.Root.RootHash {
		t.Errorf("root and tree have the GUIDs %s, the root hash is %s", both, l.Root.RootHash)
	}
	if want := "root=PARTUUID=" + a.GUID + " roothash=" + l.Root.RootHash +
		" gpt ro "; !strings.HasPrefix(l.Boot.Cmdline, want) {
		t.Errorf("command line %q, want %q", l.Boot.Cmdline, want)
	}
	if l.Root.Offset != a.Start || l.Root.Size != a.Used {
		t.Errorf("root: %+v; partition %+v", l.Root, a)
	}
	if l.part("root-b").Size != a.Size || a.Size%slotUnit != 0 {
		t.Errorf("slots of %d and %d bytes", a.Size, l.part("root-b").Size)
	}
	if !strings.HasSuffix(l.Boot.Cmdline, " extra=1") || !strings.Contains(l.Boot.Cmdline, " systemd.crash_reboot ") || l.Boot.UKI != "EFI/Linux/demo_1.2.efi" ||
		l.Boot.Kernel != version {
		t.Errorf("boot: %+v", l.Boot)
	}
}

func TestTools(t *testing.T) {
	name, l := mustCreate(t, sampleConfig())
	if out := run(t, "sgdisk", "-v", name); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
	esp := extract(t, name, l.part("esp"))
	run(t, "fsck.fat", "-n", esp)
	root := extract(t, name, l.part("root-a"))
	run(t, "fsck.erofs", root)
	run(t, "veritysetup", "verify", root, extract(t, name, l.part("verity-a")), l.Root.RootHash)
	listing := run(t, "mdir", "-/", "-b", "-i", esp, "::")
	for _, want := range []string{
		"::/EFI/BOOT/BOOTX64.EFI", "::/EFI/Linux/demo_1.2.efi", "::/loader/loader.conf", "::/grub/grub.cfg", "::/grub/grubenv",
		"::/bios/demo_1.2/linux", "::/bios/demo_1.2/initrd", "::/bios/demo_1.2/boot.cfg",
	} {
		if !strings.Contains(listing, want) {
			t.Errorf("%s is missing on the EFI partition:\n%s", want, listing)
		}
	}
	uki := run(t, "mtype", "-i", esp, "::/"+l.Boot.UKI)
	for _, want := range []string{l.Boot.Cmdline, "ID=debian", "IMAGE_ID=demo\nIMAGE_VERSION=1.2\n",
		version, "MZ kernel"} {
		if !strings.Contains(uki, want) {
			t.Errorf("%q is missing in the kernel image", want)
		}
	}
	if strings.Contains(uki, "IMAGE_VERSION=old") {
		t.Error("the kernel image has two versions")
	}
}

func TestSameBytes(t *testing.T) {
	a, la := mustCreate(t, sampleConfig())
	c := sampleConfig()
	before := c.Root.Len()
	b, lb := mustCreate(t, c)
	if c.Root.Len() != before {
		t.Error("Write changed the caller's tree")
	}
	if diff := cmp.Diff(la, lb, cmp.AllowUnexported(Partition{})); diff != "" {
		t.Errorf("layouts differ:\n%s", diff)
	}
	x, _ := os.ReadFile(a)
	y, _ := os.ReadFile(b)
	if !bytes.Equal(x, y) {
		t.Error("two disks of the same input differ")
	}
	c.Version = "1.3"
	_, lc := mustCreate(t, c)
	for i, p := range lc.Partitions {
		if p.GUID == la.Partitions[i].GUID {
			t.Errorf("%s has the same GUID in another version", p.Name)
		}
	}
}

func TestSparse(t *testing.T) {
	name, l := mustCreate(t, sampleConfig())
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	if data := st.Blocks * 512; st.Size != l.Size || data > 8*mib {
		t.Errorf("a disk of %d bytes takes %d", st.Size, data)
	}
	if l.part("root-b").Used != 0 || l.part("state").Used != 0 {
		t.Error("root-b and state should be empty")
	}
}

func TestSizes(t *testing.T) {
	c := sampleConfig()
	c.ESPSize, c.StateSize, c.Time = 0, 0, time.Time{}
	l, err := c.plan(100*mib, 2*mib, 20*mib)
	if err != nil || l.part("esp").Size != 128*mib || l.part("root-a").Size != 128*mib ||
		l.part("state").Size != 1024*mib {
		t.Errorf("defaults: %+v, %v", l, err)
	}
	if v := l.part("verity-a").Size; v != l.part("verity-b").Size || v != 2*mib {
		t.Errorf("room for the tree of 128 MiB: %d bytes", v)
	}
	if l, err = c.plan(100*mib, 2*mib, 200*mib); err != nil || l.part("esp").Size != 640*mib {
		t.Errorf("large kernel: %+v, %v", l, err)
	}
	c.Size = 8 << 30
	if l, err = c.plan(100*mib, 2*mib, 20*mib); err != nil || l.Size != 8<<30 {
		t.Errorf("disk of 8 GiB: %+v, %v", l, err)
	}
	c.Size = 500 * mib
	if l, err = c.plan(100*mib, 2*mib, 20*mib); err != nil || l.Size != 500*mib {
		t.Errorf("disk of 500 MiB: %+v, %v", l, err)
	}
	for _, c := range []Config{{Size: 100 * mib}, {RootSlot: 99 * mib}, {ESPSize: 10 * mib},
		{Size: 600 * mib, StateSize: 1 << 30}} {
		if l, err := c.plan(100*mib, 2*mib, 20*mib); command.Status(err) != command.StatusUsage {
			t.Errorf("%+v: %+v, %v", c, l, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	remove := func(p string) func(*Config) { return func(c *Config) { c.Root.Remove(p) } }
	state := func(p ...string) func(*Config) { return func(c *Config) { c.State = p } }
	for name, change := range map[string]func(*Config){
		"no name":           func(c *Config) { c.Name = "" },
		"name with counter": func(c *Config) { c.Name = "a+3" },
		"version with path": func(c *Config) { c.Version = "../1" },
		"no tree":           func(c *Config) { c.Root = nil },
		"two lines":         func(c *Config) { c.Cmdline = "a\nb" },
		"backslash":         func(c *Config) { c.Cmdline = `a\b` },
		"single quote":      func(c *Config) { c.Cmdline = "a'b" },
		"boot.img":          func(c *Config) { c.Root.AddFile(GrubDir+"/boot.img", 0o644, make([]byte, sector)) },
		"core.img":          func(c *Config) { c.Root.AddFile(GrubDir+"/core.img", 0o644, make([]byte, 3*sector)) },
		"large core.img":    func(c *Config) { c.Root.AddFile(GrubDir+"/core.img", 0o644, make([]byte, mib)) },
		"negative":          func(c *Config) { c.Size = -1 },
		"no kernel":         remove("boot/vmlinuz-" + version),
		"other kernel":      func(c *Config) { c.Kernel = "5.10" },
		"no stub":           remove(efiDir + "linuxx64.efi.stub"),
		"no boot loader":    remove(efiDir + "systemd-bootx64.efi"),
		"kernel, no stub":   func(c *Config) { c.Root.AddFile("boot/vmlinuz-"+version, 0o644, []byte("ELF")) },
		"state /":           state("/"),
		"state relative":    state("var"),
		"state in /etc":     state("/etc/*/x"),
		"state in /usr":     state("/usr"),
		"state twice":       state("/var", "/var/lib"),
		"state unclean":     state("/var/"),
		"state is a file":   state("/var/big"),
		"slot too small":    func(c *Config) { c.RootSlot = mib },
	} {
		c := sampleConfig()
		change(&c)
		if _, _, err := create(t, c); command.Status(err) != command.StatusUsage {
			t.Errorf("%s: got %v (status %d), want a usage error", name, err, command.Status(err))
		}
	}
}

func TestKernelWithoutModules(t *testing.T) {
	c := sampleConfig()
	c.Root.Remove("usr/lib/modules/" + version + "/modules.dep")
	_, _, err := create(t, c)
	var ce *command.Error
	if !errors.As(err, &ce) || !strings.Contains(ce.Hint, "run depmod "+version) {
		t.Errorf("got %v, hint %+v", err, ce)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Write(ctx, f, sampleConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("mount tmpfs: %v", err)
	}
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	f, err := os.Create(filepath.Join(dir, "disk.raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_, err = Write(t.Context(), f, sampleConfig())
	if want := "write " + f.Name() + ": no space left on device"; !errors.Is(err, unix.ENOSPC) || err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestNewer(t *testing.T) {
	for _, c := range []struct{ newer, older string }{
		{"6.1.0-10-amd64", "6.1.0-9-amd64"}, {"6.10.1", "6.9.9"}, {"6.1.0-9-amd64", "5.10.0-99-amd64"}, {"6.1a", "6.1"},
	} {
		if !newer(c.newer, c.older) || newer(c.older, c.newer) || newer(c.newer, c.newer) {
			t.Errorf("newer(%q, %q)", c.newer, c.older)
		}
	}
}
