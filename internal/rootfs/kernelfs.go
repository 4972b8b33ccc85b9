package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What programs in a tree see of the kernel. It is made the same way for root
// and for an ordinary user, who may neither make device nodes nor mount a
// sysfs: devices and /sys are those of this machine, bound.

// mountProc mounts a fresh /proc.
func mountProc(root string) error {
	p, err := mountPoint(root, "proc")
	if err != nil {
		return err
	}
	if err := unix.Mount("proc", p, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", p, err)
	}
	return nil
}

// mountSys shows /sys read-only, and without what is mounted in it: control
// groups, security modules, debugging.
func mountSys(root string) error {
	p, err := mountPoint(root, "sys")
	if err != nil {
		return err
	}
	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	if err := bind("/sys", p, unix.MS_REC, attributes); err != nil {
		return err
	}
	if p, err = filepath.EvalSymlinks(p); err != nil {
		return err
	}
	points, err := mountPoints(p)
	if err != nil {
		return err
	}
	var hidden string
	slices.Sort(points) // what lies above others comes first
	for _, point := range points {
		if point == p || hidden != "" && strings.HasPrefix(point, hidden+"/") {
			continue
		}
		const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RDONLY
		if err := unix.Mount("tmpfs", point, "tmpfs", flags, "mode=755"); err != nil {
			return fmt.Errorf("hide %s: %w", point, err)
		}
		hidden = point
	}
	return nil
}

// devices are what programs expect everywhere: null(4), random(4), full(4),
// tty(4).
var devices = []string{"full", "null", "random", "tty", "urandom", "zero"}

// makeDev mounts a small /dev with what programs expect everywhere and nothing
// of the host's hardware.
func makeDev(root string) error {
	dev, err := mountPoint(root, "dev")
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dev, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755,size=4m"); err != nil {
		return fmt.Errorf("mount %s: %w", dev, err)
	}
	for _, name := range devices {
		p := filepath.Join(dev, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			return err
		}
		// Read-only, a device can be written to but not be changed: its owner and
		// mode are the host's.
		if err := bind("/dev/"+name, p, 0, unix.MOUNT_ATTR_RDONLY); err != nil {
			return err
		}
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for dir, opts := range map[string]string{"pts": "newinstance,ptmxmode=0666,mode=620,gid=5", "shm": "mode=1777"} {
		p := filepath.Join(dev, dir)
		if err := os.Mkdir(p, 0o755); err != nil {
			return err
		}
		fs := "devpts"
		if dir == "shm" {
			fs = "tmpfs"
		}
		if err := unix.Mount(fs, p, fs, unix.MS_NOSUID|unix.MS_NOEXEC, opts); err != nil {
			return fmt.Errorf("mount %s: %w", p, err)
		}
	}
	return nil
}

// shareDev shows this machine's devices in the tree.
func shareDev(root string) error {
	dev, err := mountPoint(root, "dev")
	if err != nil {
		return err
	}
	return bind("/dev", dev, unix.MS_REC, 0)
}

func bindReadOnly(src, root, dir string) error {
	p, err := mountPoint(root, dir)
	if err != nil {
		return err
	}
	return bind(src, p, 0, unix.MOUNT_ATTR_RDONLY)
}

// bind shows src at target, with attributes more than it has; flags may be
// MS_REC. Attributes are added: in a user namespace those that src has may not
// be taken from it, as a remount with flags would.
func bind(src, target string, flags uintptr, attributes uint64) error {
	if err := unix.Mount(src, target, "", unix.MS_BIND|flags, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", src, target, err)
	}
	if attributes == 0 {
		return nil
	}
	var how uint
	if flags&unix.MS_REC != 0 {
		how = unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(unix.AT_FDCWD, target, how, &unix.MountAttr{Attr_set: attributes})
	if errors.Is(err, unix.ENOSYS) {
		err = errors.New("this needs Linux 5.12 or newer")
	}
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", target, err)
	}
	return nil
}
