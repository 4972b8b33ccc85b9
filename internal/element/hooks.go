package element

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
)

// MergeHooks copies what the elements hold into one tree at dest, as
// diskimage-builder does: first-level directories (but tests and __pycache__)
// and first-level files of every element, in the given order. Two elements
// with the same file directly inside a first-level directory are an error;
// deeper files merge, a later one over an earlier one. Names that start with
// a dot are left out at the first level. Modes become 0755 or 0644.
func MergeHooks(elements []*Element, dest string) error {
	owner := map[string]string{}
	for _, e := range elements {
		entries, err := os.ReadDir(e.Dir)
		if err != nil {
			return err
		}
		for _, d := range entries {
			name, src := d.Name(), filepath.Join(e.Dir, d.Name())
			fi, err := os.Stat(src)
			if err != nil {
				return fmt.Errorf("element %s: %w", e.Name, err)
			}
			switch {
			case strings.HasPrefix(name, "."), strings.HasSuffix(name, ".pyc"):
			case fi.IsDir() && (name == "tests" || name == "__pycache__"):
			case fi.IsDir():
				if err := mergeDir(e, src, name, dest, owner); err != nil {
					return err
				}
			case fi.Mode().IsRegular():
				if err := copyFile(src, filepath.Join(dest, name), fi); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func mergeDir(e *Element, src, name, dest string, owner map[string]string) error {
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dest, name), 0o755); err != nil {
		return err
	}
	for _, d := range entries {
		rel := filepath.Join(name, d.Name())
		if !d.IsDir() {
			if by, dup := owner[rel]; dup {
				return command.BadInput(fmt.Errorf("element %s: %s is also in element %s", e.Name, rel, by),
					"rename one of them: hooks of all elements share a directory")
			}
			owner[rel] = e.Name
		}
		if err := copyTree(filepath.Join(src, d.Name()), filepath.Join(dest, rel)); err != nil {
			return fmt.Errorf("element %s: %w", e.Name, err)
		}
	}
	return nil
}

// copyTree copies a file, symbolic link or directory.
func copyTree(src, dest string) error {
	return filepath.WalkDir(src, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		to := filepath.Join(dest, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
			return os.Chmod(to, 0o755)
		case fi.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			_ = os.Remove(to)
			return os.Symlink(target, to)
		case fi.Mode().IsRegular():
			return copyFile(p, to, fi)
		}
		return fmt.Errorf("%s: neither file, directory nor symbolic link", p)
	})
}

// mode is 0755 for what its owner may execute and 0644 for the rest: the
// umask of whoever checked the elements out must not reach an image.
func mode(fi os.FileInfo) os.FileMode {
	if fi.Mode()&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

func copyFile(src, dest string, fi os.FileInfo) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	_ = os.Remove(dest)
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		_ = out.Close()
		return fmt.Errorf("copy %s: %w", src, err)
	}
	if err := out.Chmod(mode(fi)); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
