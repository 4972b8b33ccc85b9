package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// parentSuffix names, beside a copy, an empty directory with the mode and owner
// of the one that held the path.
const parentSuffix = ".parent"

// makeParent makes the directory that is to hold a path again, if it is gone.
func makeParent(kept, dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := mkdirSynced(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := likeDir(kept+parentSuffix, dir); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(dir))
}

// likeDir makes a directory with the mode and owner of another; of one that is
// not there, mode 0755 and our own.
func likeDir(model, dir string) error {
	var st unix.Stat_t
	err := unix.Stat(model, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(dir, 0o755)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", model, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(dir, st.Mode&0o7777)
}

// copyTree copies what is at a path, whatever it is, with all that a file
// system knows of it.
func copyTree(ctx context.Context, from, to string) error {
	x := command.Exec{Args: []string{"cp", "-a", "--reflink=auto", "-T", "--", from, to}, Remedy: "cp is part of coreutils"}
	x.Env = append(os.Environ(), "LC_ALL=C") // for full
	return x.Run(ctx)
}

// full tells whether an error is that of a disk without room, be it told by cp.
func full(err error) bool {
	if e, ok := errors.AsType[*command.ExitError](err); ok {
		return strings.Contains(strings.Join(e.Tail, "\n"), ": No space left on device")
	}
	return errors.Is(err, unix.ENOSPC)
}

func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
