package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// keptFile says to a running system what is its own: the paths of the plan, one
// a line.
const keptFile = "/run/goldsmith/kept"

// mountState mounts the state partition.
func mountState(c *console, d *rootDisk) error {
	dev, err := d.named("state")
	if err != nil {
		return err
	}
	empty, err := noExt4(dev)
	if err != nil {
		return err
	}
	if empty {
		c.say("make a file system on %s", dev)
		if err := makeState(dev); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return err
	}
	if err := mountExt4(c, dev); err != nil {
		return err
	}
	c.say("state is %s", dev)
	if !empty {
		growFilesystem(c, dev)
	}
	if err := os.Chmod(stateRoot, 0o700); err != nil { // its parts are mounted where they belong
		return err
	}
	return resetMachine(c, dev)
}

// placeState puts the state's directories into the image, which is the one with
// that root hash; nil is a live system's. What is kept of /etc is among the
// paths; where that is all of it, the layer stays as it is.
func placeState(c *console, paths []string, hash *rootHash) error {
	if err := os.WriteFile(keptFile, []byte(strings.Join(paths, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	var keep, dirs []string
	for _, p := range paths {
		if p == "/etc" || strings.HasPrefix(p, "/etc/") {
			keep = append(keep, p)
		} else {
			dirs = append(dirs, p)
		}
	}
	if !slices.Contains(keep, "/etc") {
		err := freshEtc(stateRoot+"/etc", sysroot+"/etc", keep)
		if errors.Is(err, unix.ENOSPC) { // a machine that does not boot could not be told to remove something
			c.say("the state partition is full: /etc stays as the machine left it")
		} else if err != nil {
			return fmt.Errorf("a new layer for /etc: %w", err)
		}
	}
	if err := overlayEtc(); err != nil {
		return err
	}
	f := newFactory(stateRoot, hash)
	for _, p := range dirs {
		if err := bindState(c, f, p); err != nil {
			return err
		}
	}
	f.done(c)
	return mountTmp()
}

// noExt4 tells whether a partition has no ext2, ext3 or ext4 superblock.
func noExt4(dev string) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var magic [2]byte
	if _, err := f.ReadAt(magic[:], 1024+56); err != nil {
		return false, err
	}
	return magic != [2]byte{0x53, 0xef}, nil
}

// makeState runs the image's own mke2fs. It leaves the writing of inode tables
// and journal to the kernel, for later.
func makeState(dev string) error {
	return inImage("/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-L", "state", "-m", "1", "-e", "remount-ro",
		"-E", "lazy_itable_init=1,lazy_journal_init=1", dev)
}

// mountExt4 mounts the state partition, after a repair where one is needed.
func mountExt4(c *console, dev string) error {
	if isMounted(stateRoot) {
		return nil // the diary needed it
	}
	err := unix.Mount(dev, stateRoot, "ext4", 0, "")
	if err == nil {
		return nil
	}
	c.say("mount %s: %v; check it", dev, err)
	// Status 1 means that all errors were corrected.
	if fsck := inImage("/sbin/e2fsck", "-p", dev); fsck != nil && !isStatus(fsck, 1) {
		return fmt.Errorf("mount state partition %s: %w; %w", dev, err, fsck)
	}
	if err := unix.Mount(dev, stateRoot, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount state partition %s: %w", dev, err)
	}
	return nil
}

// statusError is the end of a program with a status other than 0.
type statusError struct {
	program string
	status  int
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: exit status %d", e.program, e.status) }

func isStatus(err error, status int) bool {
	var se *statusError
	return errors.As(err, &se) && se.status == status
}

// inImage runs one of the image's programs inside the image, with devices.
func inImage(args ...string) (err error) {
	for _, dir := range []string{"/dev", "/proc"} {
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
		defer func() { err = errors.Join(err, unix.Unmount(sysroot+dir, 0)) }()
	}
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{nil, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Chroot: sysroot},
	})
	if err != nil {
		return fmt.Errorf("run the image's %s: %w", args[0], err)
	}
	st, err := p.Wait()
	if err != nil {
		return err
	}
	if !st.Success() {
		return &statusError{args[0], st.ExitCode()}
	}
	return nil
}

// overlayEtc makes /etc writable: changed files go to the state partition. The
// options switch off all that forbids another lower layer after an update,
// whatever the kernel's defaults are.
func overlayEtc() error {
	upper, work := stateRoot+"/etc/upper", stateRoot+"/etc/work"
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	options := "lowerdir=" + sysroot + "/etc,upperdir=" + upper + ",workdir=" + work +
		",redirect_dir=off,index=off,metacopy=off"
	if err := unix.Mount("overlay", sysroot+"/etc", "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay on /etc: %w", err)
	}
	return nil
}

// bindState puts the state partition's copy of a directory over the image's.
func bindState(c *console, f *factory, path string) error {
	inImage := sysroot + path
	st, err := os.Lstat(inImage)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !st.IsDir() {
		c.say("%s: not a directory of the image, left alone", path)
		return nil
	}
	if err != nil {
		return err
	}
	kept := stateRoot + "/fs" + path
	if err := f.directory(c, path, kept, inImage); err != nil {
		return fmt.Errorf("fill %s: %w", path, err)
	}
	if err := unix.Mount(kept, inImage, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	return nil
}

// mountTmp gives the image a /tmp of its own where it has only the read-only
// directory: much fails without one.
func mountTmp() error {
	const dir = sysroot + "/tmp"
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR ||
		unix.Access(dir, unix.W_OK) != unix.EROFS {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=50%"); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	return nil
}
