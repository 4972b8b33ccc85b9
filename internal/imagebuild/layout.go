package imagebuild

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/blockdevice"
	"goldsmith/internal/command"
	"goldsmith/internal/element"
)

// BlockDevice is the name that an element provides whose image gets its disk
// from a block-device-*.yaml rather than goldsmith's own layout.
const BlockDevice = "block-device"

// What hooks that work on the disk find it by.
const (
	blockDevice  = "IMAGE_BLOCK_DEVICE"
	blockDevices = "IMAGE_BLOCK_DEVICES"
)

// layout is a disk of the block-device kind: what is written on it, and what
// the build knows of it.
type layout struct {
	name   string // of the configuration, for messages
	text   []byte // the configuration; empty means the default
	config *blockdevice.Config
	params blockdevice.Params
	plan   *blockdevice.Plan
	sized  bool // the tree is there, and the plan complete
}

// chooseLayout reads the block device configuration, and checks it as far as
// that can be done before the tree is there. Goldsmith's own disk has none.
func (b *build) chooseLayout() error {
	provided := slices.ContainsFunc(b.elements, func(e *element.Element) bool { return slices.Contains(e.Provides, BlockDevice) })
	env := b.settings(treePhases[0])
	if b.opts.Compat == nil && !provided && env["DIB_BLOCK_DEVICE_CONFIG"] == "" {
		return nil
	}
	l := &layout{}
	if err := b.findConfig(l, env["DIB_BLOCK_DEVICE_CONFIG"]); err != nil {
		return err
	}
	var err error
	if l.text == nil {
		l.config = blockdevice.Default()
	} else if l.config, err = blockdevice.Parse(l.name, l.text); err != nil {
		return err
	}
	l.params = blockdevice.Params{
		RootFSType: env["FS_TYPE"], RootLabel: b.rootLabel(env), Seed: filepath.Base(b.def.Name),
	}
	if size := env["DIB_BLOCK_SIZE"]; size != "" {
		if l.params.BlockSize, err = strconv.Atoi(size); err != nil || l.params.BlockSize <= 0 {
			return command.BadInput(fmt.Errorf("DIB_BLOCK_SIZE %q: not a number of bytes", size), "")
		}
	}
	if text := env["DIB_JOURNAL_SIZE"]; text != "" {
		if n, err := strconv.ParseUint(text, 10, 32); err != nil || n == 0 {
			return command.BadInput(fmt.Errorf("DIB_JOURNAL_SIZE %q: expected MiB, such as 64", text), "")
		}
	}
	if l.params.Size, err = b.askedSize(env); err != nil {
		return err
	}
	if l.plan, err = l.config.Plan(l.params); err != nil {
		return err
	}
	for _, w := range l.plan.Warnings {
		b.progress.Info("warning: %s", w)
	}
	b.layout = l
	return nil
}

// rootLabel is the label of the root file system where nobody names one, as
// in the original.
func (b *build) rootLabel(env map[string]string) string {
	if c := b.opts.Compat; c != nil && c.RootLabel != "" {
		return c.RootLabel
	}
	if env["FS_TYPE"] == "xfs" {
		return "img-rootfs"
	}
	return "cloudimg-rootfs"
}

// findConfig looks for the configuration: what the environment names, then the
// first element, by name, that has a file for the architecture or a default.
func (b *build) findConfig(l *layout, given string) error {
	if file, ok := strings.CutPrefix(given, "file://"); ok {
		text, err := os.ReadFile(file)
		if err != nil {
			return command.BadInput(fmt.Errorf("DIB_BLOCK_DEVICE_CONFIG: %w", err), "")
		}
		l.name, l.text = file, text
		return nil
	}
	if given != "" {
		l.name, l.text = "DIB_BLOCK_DEVICE_CONFIG", []byte(given)
		return nil
	}
	arch := b.def.Arch
	if arch == "ppc64le" {
		arch = "ppc64el"
	}
	for _, e := range b.elements {
		for _, name := range []string{"block-device-" + arch + ".yaml", "block-device-default.yaml"} {
			file := filepath.Join(e.Dir, name)
			text, err := os.ReadFile(file)
			if os.IsNotExist(err) {
				continue
			}
			if err != nil {
				return fmt.Errorf("element %s: %w", e.Name, err)
			}
			if l.text != nil {
				b.progress.Info("warning: %s is not used: %s comes first", file, l.name)
				break
			}
			l.name, l.text = file, bytes.Clone(text)
			break
		}
	}
	return nil
}

// askedSize is the disk's size in bytes as somebody gave it, 0 when it follows
// from the tree.
func (b *build) askedSize(env map[string]string) (int64, error) {
	if b.def.Size != "" {
		return b.def.size()
	}
	text := env["DIB_IMAGE_SIZE"]
	if text == "" {
		return 0, nil
	}
	gib, err := strconv.ParseFloat(text, 64)
	if err != nil || !(gib*1024*1024 >= 1 && gib <= 1<<20) { // a KiB at least, and no NaN
		return 0, command.BadInput(fmt.Errorf("image size %q: expected GiB, such as 4 or 2.5", text), "")
	}
	return b.padded(int64(gib*1024*1024), env, true), nil
}

// padded turns a number of KiB into a size in bytes as the original does:
// with room for a large EFI system partition, and a multiple of 64 KiB.
func (b *build) padded(kib int64, env map[string]string, asked bool) int64 {
	if env["DIB_ROOT_FSTYPE"] == "ext4" && !asked {
		kib += journal(env) * 1024
	}
	if strings.Contains(env["IMAGE_ELEMENT"], "block-device-efi") {
		kib += 525 * 1024
	}
	return (kib + 63) / 64 * 64 * 1024
}

// journal is the size of an ext4 journal in MiB.
func journal(env map[string]string) int64 {
	if n, err := strconv.ParseInt(env["DIB_JOURNAL_SIZE"], 10, 64); err == nil {
		return n
	}
	return 64
}

// fit completes the plan once the tree is there: the size that follows from
// it, and the options of the root file system.
func (b *build) fit(root string) error {
	l, env := b.layout, b.settings(treePhases[0])
	l.params.Root = root
	show := env["DIB_SHOW_IMAGE_USAGE"] != "" && env["DIB_SHOW_IMAGE_USAGE"] != "0"
	if show || l.params.Size == 0 {
		used, err := diskUsage(root)
		if err != nil {
			return err
		}
		if show {
			full := env["DIB_SHOW_IMAGE_USAGE_FULL"]
			used.report(b.log, full != "" && full != "0")
		}
		if l.params.Size == 0 {
			if l.params.Size, err = b.neededSize(used.kib["."], env); err != nil {
				return err
			}
		}
	}
	var opts []string
	if c := b.opts.Compat; c != nil && c.MaxOnlineResize != "" {
		opts = append(opts, "-E", "resize="+c.MaxOnlineResize)
	}
	if env["DIB_ROOT_FSTYPE"] == "ext4" {
		if env["DIB_RELEASE"] == "trusty" {
			opts = append(opts, "-O", "^metadata_csum")
		}
		opts = append(opts, "-i", "4096", "-J", fmt.Sprintf("size=%d", journal(env)))
	}
	if c := b.opts.Compat; c != nil && c.MkfsOptions != "" {
		opts = append(opts, c.MkfsOptions)
	}
	l.params.RootFSOpts = strings.Join(opts, " ")
	var err error
	l.plan, err = l.config.Plan(l.params)
	l.sized = err == nil
	return err
}

// neededSize is the disk's size in bytes for a tree of that many KiB: as the
// original decides it.
func (b *build) neededSize(used int64, env map[string]string) (int64, error) {
	kib := int64(float64(used) / 0.6)
	if extra := env["DIB_IMAGE_EXTRA_SIZE"]; extra != "" {
		mib, err := strconv.ParseFloat(extra, 64)
		if err != nil || !(mib >= 0 && mib <= math.MaxInt32) {
			return 0, command.BadInput(fmt.Errorf("DIB_IMAGE_EXTRA_SIZE %q: expected MiB", extra), "")
		}
		kib = used + int64(mib*1024)
	}
	return b.padded(kib, env, false), nil
}

// sizeDisk completes the plan once the tree is there, and tells hooks of it.
func (b *build) sizeDisk() error {
	if err := b.fit(b.root()); err != nil {
		return err
	}
	return b.layout.write(b.dir(), b.dir()) // once more: sizes are known now
}

// describeDisk gives the tree what the disk would have brought it, where no
// output is a disk: the size for hooks, and fstab.
func (b *build) describeDisk() error {
	if err := b.sizeDisk(); err != nil {
		return err
	}
	return writeFstab(b.root(), b.layout.plan.Fstab())
}

// writeFstab puts fstab(5) into the tree, whatever was there.
func writeFstab(tree string, text []byte) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	if err := root.RemoveAll("etc/fstab"); err != nil {
		return err
	}
	return explainFull("etc/fstab", root.WriteFile("etc/fstab", text, 0o644))
}

// needsMachine tells whether the last phases need a real block device: when
// an output is a disk of the block-device kind, or a hook asks for the device.
func (b *build) needsMachine() bool {
	if b.layout == nil {
		return false
	}
	if b.wantsDisk() {
		return true
	}
	for _, e := range b.elements {
		if files, _ := os.ReadDir(filepath.Join(e.Dir, devicePhase.name)); len(files) > 0 {
			return true
		}
		for _, p := range diskPhases {
			files, _ := os.ReadDir(filepath.Join(e.Dir, p.name))
			for _, f := range files {
				// What cannot be read, such as a directory, is no hook.
				text, err := os.ReadFile(filepath.Join(e.Dir, p.name, f.Name()))
				if err == nil && bytes.Contains(text, []byte(blockDevice)) {
					return true
				}
			}
		}
	}
	return false
}

// wantsDisk tells whether an output is made from a whole disk.
func (b *build) wantsDisk() bool {
	return slices.ContainsFunc(b.outputs, isDisk)
}

// isDisk tells whether a format is a whole disk.
func isDisk(format string) bool { return formatOf(format).disk }

// wantsTree tells whether an output is made from the tree.
func (b *build) wantsTree() bool {
	return slices.ContainsFunc(b.outputs, func(o string) bool { return !isDisk(o) })
}

// defaultConfig is blockdevice.Default as a file: one file system on the whole
// disk.
const defaultConfig = `- local_loop:
    name: image0
    mkfs:
      name: mkfs_root
      mount:
        mount_point: /
        fstab:
          options: "defaults"
          fsck-passno: 1
`

// write puts down what hooks and third parties read of the configuration, in
// the original's form: below the directory at, which they see as dir.
func (l *layout) write(at, dir string) error {
	if err := os.MkdirAll(filepath.Join(at, blockDeviceDir), 0o755); err != nil {
		return err
	}
	text := l.text
	if text == nil {
		text = []byte(defaultConfig)
	}
	if err := os.WriteFile(filepath.Join(at, blockDeviceDir, "config.yaml"), text, 0o644); err != nil {
		return err
	}
	params := fmt.Sprintf("config: %s\nimage-dir: %s\nroot-fs-type: %s\nroot-label: %s\nmount-base: %s\nbuild-dir: %s\n",
		filepath.Join(dir, blockDeviceDir, "config.yaml"), filepath.Join(dir, imageName),
		l.plan.RootFSType(), l.plan.RootLabel(), filepath.Join(dir, treeName), dir)
	if l.params.Size > 0 {
		params += fmt.Sprintf("image-size: %dKiB\n", l.params.Size/1024)
	}
	if l.params.RootFSOpts != "" {
		params += fmt.Sprintf("root-fs-opts: %q\n", l.params.RootFSOpts)
	}
	return os.WriteFile(filepath.Join(at, blockDeviceDir, "params.yaml"), []byte(params), 0o644)
}
