package main

import (
	"errors"
	"fmt"
	"io"
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

// mountState mounts the state partition, and says what had to be done for that.
func mountState(c *console, d *rootDisk) (done remedy, err error) {
	dev, err := d.named("state")
	if err != nil {
		return done, err
	}
	empty, err := noSuperblock(dev)
	if err != nil {
		return done, err
	}
	m := newMedic(c, dev)
	if empty {
		c.say("make a file system on %s", dev)
		if err := m.makeState(); err != nil {
			return done, err
		}
	}
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return done, err
	}
	if done, err = m.mount(); err != nil {
		return done, err
	}
	c.say("state is %s", dev)
	if !empty {
		growFilesystem(c, dev)
	}
	if err := os.Chmod(stateRoot, 0o700); err != nil { // its parts are mounted where they belong
		return done, err
	}
	return done, resetMachine(m)
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

// noSuperblock tells whether nothing is where ext4 has the first half of its
// superblock, which is one sector: that of a partition nobody has used. Another
// one that cannot be mounted is damaged, if by one bit.
func noSuperblock(dev string) (bool, error) {
	f, err := os.Open(dev)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var sector [512]byte
	if _, err := f.ReadAt(sector[:], 1024); err != nil {
		return false, err
	}
	return sector == [512]byte{}, nil
}

// statusError is the end of a program with a status other than 0.
type statusError struct {
	program string
	status  int
}

func (e *statusError) Error() string { return fmt.Sprintf("%s: exit status %d", e.program, e.status) }

// exitStatus is a program's; it is false when the program could not be run or
// was killed.
func exitStatus(err error) (status int, ok bool) {
	if err == nil {
		return 0, true
	}
	se, ok := errors.AsType[*statusError](err)
	if !ok || se.status < 0 {
		return 0, false
	}
	return se.status, true
}

// inImage runs one of the image's programs inside the image, with devices. It
// returns what the program prints, at most maxDiary bytes; without want that
// goes to the console.
func inImage(want bool, args ...string) (output []byte, err error) {
	for _, dir := range []string{"/dev", "/proc"} {
		if err := unix.Mount(dir, sysroot+dir, "", unix.MS_BIND, ""); err != nil {
			return nil, fmt.Errorf("bind %s: %w", dir, err)
		}
		defer func() { err = errors.Join(err, unix.Unmount(sysroot+dir, 0)) }()
	}
	out, result := os.Stdout, func() []byte { return nil }
	if want {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		out, result = w, collect(r, w)
	}
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"},
		Files: []*os.File{nil, out, os.Stderr},
		Sys:   &syscall.SysProcAttr{Chroot: sysroot},
	})
	if err != nil {
		result()
		return nil, fmt.Errorf("run the image's %s: %w", args[0], err)
	}
	st, err := p.Wait()
	output = result()
	if err != nil {
		return nil, err
	}
	if !st.Success() {
		return nil, &statusError{args[0], st.ExitCode()}
	}
	return output, nil
}

// collect reads a pipe to its end and keeps the beginning; the function that it
// returns closes both ends.
func collect(r, w *os.File) func() []byte {
	read := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, maxDiary))
		_, _ = io.Copy(io.Discard, r)
		_ = r.Close()
		read <- b
	}()
	return func() []byte {
		_ = w.Close()
		return <-read
	}
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
