package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CanOverlay fails when the path cannot be named in an overlay's mount options.
func CanOverlay(path string) error {
	if strings.ContainsAny(path, ",:\\") {
		return fmt.Errorf("%s: the path holds a comma, a colon or a backslash, which mount options cannot", path)
	}
	return nil
}

// Overlay mounts a writable view of base at work/mnt, with the changes kept
// below work/upper, and returns the mount point. base stays as it is. The
// mount ends with [Unmount] of work, or with the process's namespaces; call it
// only where [Isolated] is true. base and work must lie on a file system that
// overlays accept (ext4, xfs, btrfs, tmpfs), and their paths must hold no
// comma, colon or backslash.
func Overlay(base, work string) (string, error) {
	mnt, upper, tmp := filepath.Join(work, "mnt"), filepath.Join(work, "upper"), filepath.Join(work, "overlay")
	for _, p := range []string{base, work} {
		if err := CanOverlay(p); err != nil {
			return "", err
		}
	}
	for _, d := range []string{mnt, upper, tmp} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	// The root directory's own owner and mode come from the upper layer.
	var st unix.Stat_t
	if err := unix.Stat(base, &st); err != nil {
		return "", fmt.Errorf("%s: %w", base, err)
	}
	if err := os.Chmod(upper, os.FileMode(st.Mode&0o777)); err != nil {
		return "", err
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base, upper, tmp)
	if err := unix.Mount("overlay", mnt, "overlay", 0, opts); err != nil {
		return "", fmt.Errorf("mount overlay on %s: %w", mnt, err)
	}
	return mnt, nil
}
