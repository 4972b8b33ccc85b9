package disk

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/fat"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/tree"
	"goldsmith/internal/uki"
)

const efiDir = "usr/lib/systemd/boot/efi/"

// bootFiles is what the EFI partition is made of.
type bootFiles struct {
	version   string // of the kernel
	kernel    []byte
	initramfs []byte
	stub      []byte
	loader    []byte // nil for a live system, which has one kernel only
	osRelease []byte
	grub      *grub // nil where the image has none
}

func newBootFiles(ctx context.Context, c Config, live initramfs.Live) (*bootFiles, error) {
	version, kernelPath, err := findKernel(c.Root, c.Kernel)
	if err != nil {
		return nil, err
	}
	b := &bootFiles{version: version}
	if b.kernel, err = readProgram(c.Root, kernelPath); err != nil {
		return nil, err
	}
	if live != initramfs.LiveFile {
		if b.stub, err = readProgram(c.Root, efiDir+"linuxx64.efi.stub"); err != nil {
			return nil, err
		}
	}
	if live == "" {
		if b.loader, err = readProgram(c.Root, efiDir+"systemd-bootx64.efi"); err != nil {
			return nil, err
		}
		if b.grub, err = readGRUB(c.Root); err != nil {
			return nil, err
		}
	}
	if b.osRelease, err = c.osRelease(); err != nil {
		return nil, err
	}
	b.initramfs, err = c.initramfs(ctx, version, live)
	return b, err
}

// initramfs returns the compressed archive. Compressing takes longer than all
// else that is done for it, and from one build to the next it seldom changes.
func (c *Config) initramfs(ctx context.Context, kernel string, live initramfs.Live) ([]byte, error) {
	var archive bytes.Buffer
	_, err := initramfs.Build(&archive, initramfs.Config{
		Init: c.Init, Root: c.Root, Kernel: kernel, Drivers: c.Drivers, State: c.State, Time: c.Time, Live: live,
	})
	if err != nil {
		return nil, err
	}
	compress := func() ([]byte, error) {
		var out bytes.Buffer
		err := initramfs.Compress(ctxWriter{ctx, &out}, archive.Bytes())
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return out.Bytes(), err
	}
	if c.Memo == nil {
		return compress()
	}
	sum := sha256.Sum256(archive.Bytes())
	return c.Memo(initramfs.Compression+hex.EncodeToString(sum[:]), compress)
}

// readProgram reads a file that must be an EFI program, as a kernel with its
// EFI stub is.
func readProgram(t *tree.Tree, p string) ([]byte, error) {
	e := t.Lookup(p)
	for range 8 {
		if e == nil || e.Kind() != tree.ModeSymlink {
			break
		}
		target := e.Target
		if !strings.HasPrefix(target, "/") {
			target = e.Path[:strings.LastIndex(e.Path, "/")+1] + target
		}
		e = t.Lookup(target)
	}
	if e == nil {
		hint := ""
		if strings.HasPrefix(p, efiDir) {
			hint = "the image needs the package systemd-boot-efi"
		}
		return nil, command.BadInput(fmt.Errorf("/%s: not in the image", p), hint)
	}
	b, err := e.ReadFile()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(b, []byte("MZ")) {
		return nil, command.BadInput(fmt.Errorf("/%s: not an EFI program", p), "")
	}
	return b, nil
}

// findKernel picks the newest kernel that has modules, or the one asked for.
func findKernel(t *tree.Tree, want string) (version, file string, err error) {
	for _, v := range initramfs.Kernels(t) {
		for _, p := range []string{"boot/vmlinuz-" + v, "usr/lib/modules/" + v + "/vmlinuz"} {
			if t.Lookup(p) == nil || want != "" && v != want {
				continue
			}
			if version == "" || newer(v, version) {
				version, file = v, p
			}
			break
		}
	}
	if version == "" {
		what := "no kernel in the image"
		if want != "" {
			what = "no kernel " + want + " in the image"
		}
		hint := "on Debian, the package linux-image-amd64 has one"
		for _, e := range t.Below("boot") {
			if v, ok := strings.CutPrefix(e.Path, "boot/vmlinuz-"); ok && cmp.Or(want, v) == v {
				hint = "/" + e.Path + " has no modules.dep beside its modules: run depmod " + v + " in the image"
			}
		}
		return "", "", command.BadInput(errors.New(what+": want /boot/vmlinuz-VERSION and /usr/lib/modules/VERSION/modules.dep"), hint)
	}
	return version, file, nil
}

// newer compares versions; runs of digits count as numbers.
func newer(a, b string) bool {
	for a != "" && b != "" {
		an, bn := digits(a), digits(b)
		if an > 0 && bn > 0 {
			x, _ := strconv.ParseUint(a[:an], 10, 64)
			y, _ := strconv.ParseUint(b[:bn], 10, 64)
			if x != y {
				return x > y
			}
			a, b = a[an:], b[bn:]
			continue
		}
		if a[0] != b[0] {
			return a[0] > b[0]
		}
		a, b = a[1:], b[1:]
	}
	return a != ""
}

func digits(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }

// osRelease is the image's os-release with the identity that boot menus sort
// by.
func (c *Config) osRelease() ([]byte, error) {
	var b bytes.Buffer
	for _, p := range []string{"usr/lib/os-release", "etc/os-release"} {
		e := c.Root.Lookup(p)
		if e == nil || e.Kind() != tree.ModeRegular {
			continue
		}
		text, err := e.ReadFile()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(text)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "IMAGE_ID=") &&
				!strings.HasPrefix(line, "IMAGE_VERSION=") {
				fmt.Fprintln(&b, line)
			}
		}
		break
	}
	if b.Len() == 0 {
		fmt.Fprintf(&b, "ID=linux\nNAME=Linux\nPRETTY_NAME=\"%s %s\"\n", c.Name, c.Version)
	}
	fmt.Fprintf(&b, "IMAGE_ID=%s\nIMAGE_VERSION=%s\n", c.Name, c.Version)
	return b.Bytes(), nil
}

// espFixed is roughly what the boot loaders need on the EFI partition, in
// bytes.
func (b *bootFiles) espFixed() int64 { return int64(len(b.loader)) + 2*mib }

// espNeed is what one version needs there.
func (b *bootFiles) espNeed() int64 {
	need := int64(len(b.stub)+len(b.kernel)+len(b.initramfs)) + mib/4 // a signature, too
	if b.grub != nil {
		need += int64(len(b.kernel)+len(b.initramfs)) + mib/4
	}
	return need
}

// commandLine is the kernel's. The last console is the one that /dev/console
// and a login prompt use when there is a serial port. A systemd that crashes
// restarts the machine.
func (c *Config) commandLine(root string) string {
	line := root + " ro console=tty0 console=ttyS0,115200 panic=10 systemd.crash_reboot quiet loglevel=4"
	if extra := strings.Join(strings.Fields(c.Cmdline), " "); extra != "" {
		line += " " + extra
	}
	return line
}

// unified is the unified kernel image.
func (b *bootFiles) unified(c Config, cmdline string) ([]byte, error) {
	image, err := uki.Build(b.stub, uki.Image{
		OSRelease: b.osRelease, Cmdline: cmdline, Uname: b.version, Initrd: b.initramfs, Linux: b.kernel,
	})
	if err != nil {
		return nil, err
	}
	return c.signed(image)
}

// signed is what firmware can be made to check, where there is a key.
func (c *Config) signed(program []byte) ([]byte, error) {
	if c.Signer == nil {
		return program, nil
	}
	return c.Signer.Sign(program, c.Time)
}

// addLoaderConfig puts systemd-boot's configuration on the EFI partition: no
// menu and no editor. systemd-boot enrols keys only into firmware in setup mode,
// after 15 seconds in which a key press stops it.
func (c *Config) addLoaderConfig(t *tree.Tree) {
	config := "timeout 0\neditor no\n"
	if c.Enroll != nil {
		config += "secure-boot-enroll force\n"
	}
	t.AddFile("loader/loader.conf", 0o644, []byte(config))
	for name, b := range c.Enroll {
		t.AddFile("loader/keys/auto/"+name, 0o644, b)
	}
}

// writeESP makes the kernel image for the finished root and the EFI partition
// around it.
func (b *bootFiles) writeESP(w *target, c Config, l *Layout) error {
	// gpt: the kernel takes the backup of a partition table that a power cut left
	// damaged.
	cmdline := c.commandLine("root=PARTUUID=" + l.part("root-a").GUID + " roothash=" + l.Root.RootHash + " gpt")
	image, err := b.unified(c, cmdline)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(image)
	id := bootentry.ID(c.Name, c.Version)
	l.Boot = Boot{
		Kernel: b.version, Cmdline: cmdline, ID: id, UKI: bootentry.Dir + "/" + bootentry.Entry{ID: id}.File(),
		UKISize: int64(len(image)), UKISHA256: hex.EncodeToString(sum[:]),
		KernelSize: int64(len(b.kernel)), InitramfsSize: int64(len(b.initramfs)),
		Firmware: []string{"uefi"},
	}
	loader, err := c.signed(b.loader)
	if err != nil {
		return err
	}
	t := tree.New()
	t.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, loader)
	t.AddFile(l.Boot.UKI, 0o644, image)
	c.addLoaderConfig(t)
	if c.Signer != nil {
		l.Boot.SignedBy = c.Signer.Fingerprint()
	}
	if b.grub != nil {
		if err := b.addGRUB(t, id, cmdline); err != nil {
			return err
		}
		l.Boot.Firmware = append(l.Boot.Firmware, "bios")
	}
	esp := l.part("esp")
	for _, e := range t.All() {
		e.ModTime = c.Time
		esp.Used += e.Size
	}
	o := fat.Options{
		Label: esp.Label, VolumeID: le.Uint32(c.digest("esp-volume")),
		Size: esp.Size, Type: 32, Time: c.Time,
	}
	if _, err = fat.Write(w.part(esp), t, o); err == nil {
		l.Boot.UKIOffset, err = fat.Offset(t, o, l.Boot.UKI)
		l.Boot.UKIOffset += esp.Start
	}
	if err != nil {
		return fmt.Errorf("EFI partition: %w", err)
	}
	return nil
}
