package collectcfg

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxFile bounds one file of a source, in bytes: parsed, it takes some twenty
// times as much memory.
const maxFile = 4 << 20

// readBounded reads a regular file below the directory open as dir. resolve
// restricts how the path is followed, as openat2 takes it.
func readBounded(dir int, path string, resolve uint64) ([]byte, error) {
	// O_NONBLOCK: a pipe with this name must not hold the boot up.
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: resolve,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxFile>>20)
	}
	return data, err
}
