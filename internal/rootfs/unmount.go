package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Unmount ends every mount on dir and below it, whoever made it: [Overlay], a
// hook that lent the tree a package cache, a bootstrapper that was killed. It
// fails when one of them stays; nothing below dir may be removed then, because
// the removal would reach into what is mounted. Files that are still open stay
// usable until they are closed.
func Unmount(dir string) error { return unmount(dir, true) }

// UnmountBelow is Unmount that leaves what is mounted on dir itself.
func UnmountBelow(dir string) error { return unmount(dir, false) }

func unmount(dir string, itself bool) error {
	dir, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// A mount may hide others, which can be reached only when it is gone.
	for {
		points, err := mountPoints(dir)
		if !itself {
			points = slices.DeleteFunc(points, func(p string) bool { return p == dir })
		}
		if err != nil || len(points) == 0 {
			return err
		}
		var errs []error
		for _, p := range points {
			if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
			}
		}
		if len(errs) == len(points) {
			return errors.Join(errs...)
		}
	}
}

// mountPoints returns where something is mounted on dir or below it, the
// deepest first. A path that is mounted on twice is there twice.
func mountPoints(dir string) ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime …: the fifth is the mount point,
		// proc_pid_mountinfo(5).
		f := strings.Fields(line)
		if len(f) < 5 {
			return nil, fmt.Errorf("mountinfo: unexpected line %q", line)
		}
		p := unescape(f[4])
		if p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") {
			points = append(points, p)
		}
	}
	slices.SortFunc(points, func(a, b string) int {
		return strings.Count(b, "/") - strings.Count(a, "/")
	})
	return points, nil
}

// unescape undoes the kernel's \ooo for white space, backslash and "#".
func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// MountedBelow tells whether anything is mounted below a directory; what is
// mounted on dir itself does not count.
func MountedBelow(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	points, err := mountPoints(dir)
	return slices.ContainsFunc(points, func(p string) bool { return p != dir }), err
}
