package imagebuild

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	resolvConf     = "etc/resolv.conf"
	resolvConfOrig = "etc/resolv.conf.ORIG"
	hostResolvConf = "/etc/resolv.conf"
)

// lendResolvConf gives the tree the content of the file host, the host's
// resolver configuration, while hooks run, and tells whether there is one to
// lend; restoreResolvConf takes it back. As in diskimage-builder, the image's
// own file is resolv.conf.ORIG meanwhile. A tree whose etc leads out of it is
// an error.
func lendResolvConf(tree, host string) (lent bool, err error) {
	content, err := os.ReadFile(host)
	if os.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		return false, err
	}
	defer root.Close()
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return false, fmt.Errorf("image: %w", err)
	}
	if err := root.Rename(resolvConf, resolvConfOrig); err != nil && !os.IsNotExist(err) {
		return false, fmt.Errorf("image: %w", err)
	}
	if err := root.WriteFile(resolvConf, content, 0o644); err != nil {
		return false, fmt.Errorf("image: %w", err)
	}
	return true, nil
}

// restoreResolvConf gives the tree its own resolv.conf back. A symbolic link
// that a hook made in its place stays, and so does a file that a hook made
// immutable.
func restoreResolvConf(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	fi, err := root.Lstat(resolvConf)
	if err != nil || !fi.Mode().IsRegular() || immutable(root, resolvConf) {
		return ignoreMissing(root.Remove(resolvConfOrig))
	}
	if err := root.Remove(resolvConf); err != nil {
		return err
	}
	return ignoreMissing(root.Rename(resolvConfOrig, resolvConf))
}

// Attributes of files that chattr(1) sets, linux/fs.h.
const (
	fsImmutable = 0x10
	fsAppend    = 0x20
)

// immutable tells whether a file has the attribute "i" of chattr(1).
func immutable(root *os.Root, name string) bool {
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	return err == nil && flags&fsImmutable != 0
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}
