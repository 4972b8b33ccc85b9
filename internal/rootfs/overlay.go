package rootfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// Names inside the scratch directory of an overlay.
const (
	// OverlayChanges is where an overlay keeps what is changed in it; kept, it
	// can lie below another one.
	OverlayChanges = "diff"
	overlayWork    = "work"
)

// MaxLower is how many directories can lie below an overlay: their names must
// fit mount options of one page.
const MaxLower = 180

// Overlay mounts a writable view of the directories in lower, the first one
// lowest, at target. Changes are kept in scratch/diff; lower stays as it is.
// scratch is made when it is not there. The mount ends with [EndOverlay], with
// [Unmount], or with the process's namespaces; call it only where [Isolated]
// is true. All must lie on file systems that overlays accept (ext4, xfs,
// btrfs, tmpfs).
func Overlay(target string, lower []string, scratch string) error {
	if len(lower) == 0 || len(lower) > MaxLower {
		return fmt.Errorf("overlay: %d lower directories; there may be 1 to %d", len(lower), MaxLower)
	}
	changes, work := filepath.Join(scratch, OverlayChanges), filepath.Join(scratch, overlayWork)
	for _, d := range []string{changes, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// The root directory's own mode comes from the upper layer.
	var st unix.Stat_t
	if err := unix.Stat(lower[len(lower)-1], &st); err != nil {
		return fmt.Errorf("%s: %w", lower[len(lower)-1], err)
	}
	if err := os.Chmod(changes, os.FileMode(st.Mode&0o777)); err != nil {
		return err
	}
	// Options know no escapes on every kernel: directories are named by open
	// descriptors.
	var open []int
	defer func() {
		for _, fd := range open {
			_ = unix.Close(fd)
		}
	}()
	name := func(dir string) (string, error) {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", fmt.Errorf("%s: %w", dir, err)
		}
		open = append(open, fd)
		return fmt.Sprintf("/proc/self/fd/%d", fd), nil
	}
	names := make([]string, len(lower))
	for i, dir := range lower {
		n, err := name(dir)
		if err != nil {
			return err
		}
		names[len(lower)-1-i] = n // the topmost comes first
	}
	upper, err := name(changes)
	if err != nil {
		return err
	}
	tmp, err := name(work)
	if err != nil {
		return err
	}
	opts := "lowerdir=" + strings.Join(names, ":") + ",upperdir=" + upper + ",workdir=" + tmp
	if inUserNamespace() {
		opts += ",userxattr" // others are only for the superuser of the machine
	}
	err = unix.Mount("overlay", target, "overlay", 0, opts)
	if err != nil {
		err = fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	if err != nil && inUserNamespace() {
		return command.Missing(err,
			"for ordinary users this needs Linux 5.12, and the cache on ext4, xfs or btrfs; or run as root")
	}
	return err
}

// EndOverlay unmounts what Overlay mounted, and everything below it, and
// leaves only the changes in the scratch directory.
func EndOverlay(target, scratch string) error {
	if err := Unmount(target); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(scratch, overlayWork))
}
