package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// list is what a layer holds: a line for each name, sorted as a walk meets
// them, with all that an image can tell of it.
type list struct {
	lines []string
	size  int64
}

func (l *list) text() []byte { return []byte(strings.Join(l.lines, "")) }

func (l *list) digest() string {
	h := sha256.New()
	for _, line := range l.lines {
		_, _ = io.WriteString(h, line)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// difference names the first line in which a list differs from a file.
func (l *list) difference(file string) string {
	old, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	i := 0
	for line := range bytes.Lines(old) {
		if i == len(l.lines) || l.lines[i] != string(line) {
			name, _, _ := strings.Cut(string(line), "\t")
			return name + " is not what it was"
		}
		i++
	}
	return "there is more in it than there was"
}

// listOf reads a directory: names, types, modes, owners, times, contents and
// attributes, those of overlays among them.
func listOf(ctx context.Context, dir string) (*list, error) {
	l := &list{}
	err := walk(dir, func(rel, path string, st *unix.Stat_t) error {
		content := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			held := st.Blocks * 512
			sum, err := fileDigest(ctx, path, held < st.Size)
			if err != nil {
				return err
			}
			content = sum
			l.size += min(held, st.Size)
		case unix.S_IFLNK:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			content = target
		case unix.S_IFCHR, unix.S_IFBLK:
			content = fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		attrs, err := attributes(path)
		if err != nil {
			return err
		}
		l.lines = append(l.lines, fmt.Sprintf("%q\t%o\t%d:%d\t%d.%09d\t%q\t%q\n",
			rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, content, attrs))
		return nil
	})
	return l, err
}

// stampOf says in short whether anything in a directory can have changed since:
// inode numbers, sizes and change times of everything in it. After a restart
// of the machine it is another one: a power cut may have lost what was not
// written yet.
func stampOf(dir string) (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, _ = h.Write(boot)
	err = walk(dir, func(rel, _ string, st *unix.Stat_t) error {
		fmt.Fprintf(h, "%s\x00%d %d %d.%d\n", rel, st.Ino, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// walk visits everything below dir in lexical order, links not followed.
func walk(dir string, visit func(rel, path string, st *unix.Stat_t) error) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return visit(path[len(dir)+1:], path, &st)
	})
}

// fileDigest is of a file's content, and of where its holes are when it has
// any: a disk image may be one large hole.
func fileDigest(ctx context.Context, path string, sparse bool) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if !sparse {
		_, err = io.Copy(h, command.Reader(ctx, f))
		return hex.EncodeToString(h.Sum(nil)), err
	}
	var end int64
	for {
		start, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no data up to the end
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
		if end, err = f.Seek(start, unix.SEEK_HOLE); err != nil {
			return "", err
		}
		fmt.Fprintf(h, "\x00%d-%d\x00", start, end)
		if _, err := io.Copy(h, command.Reader(ctx, io.NewSectionReader(f, start, end-start))); err != nil {
			return "", err
		}
	}
}

// passing are attributes that overlays leave on what they copied up, and that
// say where it came from rather than what it is.
var passing = []string{"overlay.origin", "overlay.impure", "overlay.uuid", "overlay.nlink"}

// attributes returns extended attributes as NAME=VALUE, sorted.
func attributes(path string) ([]string, error) {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err == unix.ERANGE {
		buf = make([]byte, 64<<10) // the most that there can be, xattr(7)
		n, err = unix.Llistxattr(path, buf)
	}
	if err != nil || n == 0 {
		return nil, ignoreUnsupported(err)
	}
	var out []string
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if slices.ContainsFunc(passing, func(p string) bool { return strings.HasSuffix(name, p) }) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("%s: attribute %s: %w", path, name, err)
		}
		out = append(out, name+"="+string(value[:n]))
	}
	slices.Sort(out)
	return out, nil
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
