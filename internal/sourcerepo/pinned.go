package sourcerepo

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"goldsmith/internal/atomicfile"
)

// Pinned is a directory of files by their SHA-256. Downloads lie in the cache
// by what they are called; what is pinned is kept here, so that another lock,
// or a build without one, does not take it away.
type Pinned string

// Keep keeps a file that has the digest; it must not be changed afterwards, but
// may be replaced. A cache that may only be read keeps nothing.
func (p Pinned) Keep(file, sum string) error {
	if p == "" {
		return nil
	}
	kept := filepath.Join(string(p), sum)
	if _, err := os.Lstat(kept); err == nil {
		return nil
	}
	err := os.MkdirAll(string(p), 0o755)
	if err == nil {
		err = os.Link(file, kept)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		return nil
	}
	return copyFile(file, kept)
}

// Give makes file the one that was kept with the digest, and tells whether
// there is one. A kept file that is another by now does not count.
func (p Pinned) Give(file, sum string) (bool, error) {
	if p == "" || sum == "" {
		return false, nil
	}
	kept := filepath.Join(string(p), sum)
	is, err := fileSum(kept)
	if errors.Is(err, fs.ErrNotExist) || err == nil && is != sum {
		return false, nil
	}
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = copyFile(kept, file)
	}
	return err == nil, err
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := atomicfile.Create(to, 0o644)
	if err != nil {
		return err
	}
	defer out.Abort()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Commit()
}
