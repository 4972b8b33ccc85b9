package element

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
)

// MergeHooks copies what the elements hold into one tree at dest, as
// diskimage-builder does: first-level directories (but tests and __pycache__)
// and first-level files of every element, in the given order. Two elements
// with the same file directly inside a first-level directory are an error;
// deeper files merge, a later one over an earlier one, but a directory only
// over a directory. Names that start with a dot are left out at the first
// level. Modes become 0755 or 0644. Nothing is written outside dest.
func MergeHooks(elements []*Element, dest string) error {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dest)
	if err != nil {
		return err
	}
	defer root.Close()
	m := merger{root: root, owner: map[string]string{}}
	for _, e := range elements {
		if err := m.add(e); err != nil {
			return err
		}
	}
	return nil
}

// merger is a tree that elements are copied into.
type merger struct {
	root  *os.Root
	owner map[string]string // path in the tree → the last element that has it
}

// add copies one element.
func (m *merger) add(e *Element) error {
	entries, err := os.ReadDir(e.Dir)
	if err != nil {
		return err
	}
	for _, d := range entries {
		name, src := d.Name(), filepath.Join(e.Dir, d.Name())
		if strings.HasPrefix(name, ".") {
			continue // an editor's lock is a link to nowhere
		}
		fi, err := os.Stat(src)
		if err != nil {
			return fmt.Errorf("element %s: %w", e.Name, err)
		}
		switch {
		case strings.HasSuffix(name, ".pyc"):
		case fi.IsDir() && (name == "tests" || name == "__pycache__"):
		case fi.IsDir():
			err = m.addDir(e, src, name)
		case fi.Mode().IsRegular():
			err = m.put(e, src, name, fi)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addDir copies a first-level directory.
func (m *merger) addDir(e *Element, src, name string) error {
	entries, err := os.ReadDir(src)
	if err != nil {
		return err
	}
	if err := m.mkdir(e, name); err != nil {
		return err
	}
	for _, d := range entries {
		rel := filepath.Join(name, d.Name())
		if by, dup := m.owner[rel]; dup && !d.IsDir() {
			return command.BadInput(fmt.Errorf("element %s: %s is also in element %s", e.Name, rel, by),
				"rename one of them: hooks of all elements share a directory")
		}
		if err := m.addTree(e, filepath.Join(src, d.Name()), rel); err != nil {
			return err
		}
	}
	return nil
}

// addTree copies a file, symbolic link or directory to the path to.
func (m *merger) addTree(e *Element, src, to string) error {
	return filepath.WalkDir(src, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, p)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return m.mkdir(e, filepath.Join(to, rel))
		}
		return m.put(e, p, filepath.Join(to, rel), fi)
	})
}

// mkdir makes a directory that may be there. It must not be a symbolic link:
// what comes below it would be written to where the link leads, which may be
// the build host.
func (m *merger) mkdir(e *Element, rel string) error {
	if fi, err := m.root.Lstat(rel); err == nil && !fi.IsDir() {
		return m.conflict(e, rel, fi, "a directory")
	}
	if err := m.root.MkdirAll(rel, 0o755); err != nil {
		return fmt.Errorf("element %s: %w", e.Name, err)
	}
	m.owner[rel] = e.Name
	return m.root.Chmod(rel, 0o755) // whatever the umask is
}

// put copies a file or a symbolic link in place of any other.
func (m *merger) put(e *Element, src, rel string, fi os.FileInfo) error {
	if old, err := m.root.Lstat(rel); err == nil && old.IsDir() {
		return m.conflict(e, rel, old, kind(fi))
	}
	var err error
	switch fi.Mode().Type() {
	case 0:
		err = m.copyFile(src, rel, fi)
	case fs.ModeSymlink:
		err = m.copyLink(src, rel)
	default:
		err = fmt.Errorf("%s: neither file, directory nor symbolic link", src)
	}
	if err != nil {
		return fmt.Errorf("element %s: %w", e.Name, err)
	}
	m.owner[rel] = e.Name
	return nil
}

// conflict says that e has another kind of thing at rel than an element
// before it.
func (m *merger) conflict(e *Element, rel string, fi os.FileInfo, here string) error {
	return command.BadInput(fmt.Errorf("element %s: %s is %s in element %s", e.Name, rel, kind(fi), m.owner[rel]),
		fmt.Sprintf("in element %s it is %s: both must have the same there, or one of them nothing", e.Name, here))
}

// kind says in words what a file is.
func kind(fi os.FileInfo) string {
	switch {
	case fi.IsDir():
		return "a directory"
	case fi.Mode()&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "a file"
}

// mode is 0755 for what its owner may execute and 0644 for the rest: the
// umask of whoever checked the elements out must not reach an image.
func mode(fi os.FileInfo) os.FileMode {
	if fi.Mode()&0o100 != 0 {
		return 0o755
	}
	return 0o644
}

func (m *merger) copyLink(src, rel string) error {
	target, err := os.Readlink(src)
	if err != nil {
		return err
	}
	if err := m.root.Remove(rel); err != nil && !os.IsNotExist(err) {
		return err
	}
	return m.root.Symlink(target, rel)
}

func (m *merger) copyFile(src, rel string, fi os.FileInfo) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := m.root.Remove(rel); err != nil && !os.IsNotExist(err) {
		return err
	}
	out, err := m.root.OpenFile(rel, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
