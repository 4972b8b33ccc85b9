package testbedtest

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/fat"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

// linuxInit is what the small Linux guest does: a root shell on the serial port,
// and QEMU's guest agent.
const linuxInit = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for m in /modules/*; do insmod "$m"; done
for p in /sys/class/virtio-ports/*; do
	[ "$(cat "$p/name")" != org.qemu.guest_agent.0 ] || qemu-ga -t /run -f /run/qga.pid -p "/dev/${p##*/}" &
done
while :; do setsid -c sh -i </dev/ttyS0 >/dev/ttyS0 2>&1; done
`

// LinuxDisk makes a raw disk that starts this host's kernel under BIOS, with a
// root shell on the serial port and QEMU's guest agent: in a few seconds, and
// with what Debian's packages linux-image-amd64, busybox-static, grub-pc-bin and
// qemu-guest-agent have. It fits Driver.ShellDisk.
func LinuxDisk(t *testing.T) string {
	t.Helper()
	testenv.Need(t, "grub-mkimage", "qemu-ga", "busybox", "ldd")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*")
	if len(kernels) == 0 {
		testenv.NeedFile(t, "/boot/vmlinuz-*")
	}
	slices.Sort(kernels)
	kernel := kernels[len(kernels)-1]
	boot := tree.New()
	if _, err := boot.AddFrom("linux", 0o644, kernel); err != nil {
		t.Fatal(err)
	}
	boot.AddFile("initrd", 0o644, linuxInitrd(t, strings.TrimPrefix(kernel, "/boot/vmlinuz-")))
	var disk buffer
	if _, err := fat.Write(&disk, boot, fat.Options{Size: 64 << 20, Label: "GUEST"}); err != nil {
		t.Fatal(err)
	}
	const start = 2048 // sectors
	head := make([]byte, start*512)
	// The two know where the other is when one follows the other.
	copy(head, append(read(t, "/usr/lib/grub/i386-pc/boot.img"), grubCore(t)...))
	p := head[446:510] // the partition table, with one entry
	clear(p)
	p[4] = 0x0c // FAT32
	binary.LittleEndian.PutUint32(p[8:], start)
	binary.LittleEndian.PutUint32(p[12:], uint32(len(disk)/512))
	head[510], head[511] = 0x55, 0xaa
	return file(t, append(head, disk...), nil)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func grubCore(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	script, core := filepath.Join(dir, "script"), filepath.Join(dir, "core")
	const text = "linux (hd0,msdos1)/linux console=ttyS0 quiet rdinit=/init mitigations=off nokaslr edd=off audit=0 apparmor=0\ninitrd (hd0,msdos1)/initrd\nboot\n"
	if err := os.WriteFile(script, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)", "-c", script,
		"biosdisk", "part_msdos", "fat", "linux", "boot").CombinedOutput()
	if err != nil {
		t.Fatalf("grub-mkimage: %v\n%s", err, out)
	}
	return read(t, core)
}

var library = regexp.MustCompile(`/[^ ]+`)

// linuxInitrd is an archive with busybox, QEMU's agent with its libraries, and
// the modules that reach its port.
func linuxInitrd(t *testing.T, version string) []byte {
	t.Helper()
	root := tree.New()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "run", "tmp", "modules", "var", "etc"} {
		root.Add(&tree.Entry{Path: dir, Mode: 0o40755})
	}
	add := func(path, src string) {
		real, err := filepath.EvalSymlinks(src)
		if err == nil {
			root.AddParents(path)
			_, err = root.AddFrom(path, 0o755, real)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root.AddFile("init", 0o755, []byte(linuxInit))
	busybox, _ := exec.LookPath("busybox")
	agent, _ := exec.LookPath("qemu-ga")
	add("bin/busybox", busybox)
	add("bin/qemu-ga", agent)
	libs, err := exec.Command("ldd", agent).Output()
	if err != nil {
		t.Fatalf("ldd: %v", err)
	}
	for _, lib := range library.FindAllString(string(libs), -1) {
		add(strings.TrimPrefix(lib, "/"), lib)
	}
	for i, module := range linuxModules(t, version, "virtio_pci", "virtio_console") {
		add("modules/"+string(rune('a'+i))+"-"+filepath.Base(module), module)
	}
	var b bytes.Buffer
	if err := initramfs.Archive(&b, root, time.Unix(0, 0)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// linuxModules are the files of modules and of what they need, in the order in
// which they are loaded.
func linuxModules(t *testing.T, version string, names ...string) []string {
	t.Helper()
	dir := "/lib/modules/" + version
	var all []string
	for _, name := range names {
		for line := range strings.Lines(string(read(t, dir+"/modules.dep"))) {
			path, needs, _ := strings.Cut(strings.TrimSpace(line), ":")
			if base, _, _ := strings.Cut(filepath.Base(path), "."); base != name {
				continue
			}
			list := append([]string{path}, strings.Fields(needs)...)
			slices.Reverse(list) // depmod has what others need last
			for _, m := range list {
				if m = filepath.Join(dir, m); !slices.Contains(all, m) {
					all = append(all, m)
				}
			}
		}
	}
	return all
}
