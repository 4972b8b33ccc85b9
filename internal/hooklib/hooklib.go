// Package hooklib is the library of shell functions that diskimage-builder
// offers its elements in the directory that the variable _LIB names.
//
// Elements source its files in hooks on the host, and some copy them into the
// image to build a ramdisk there. The functions and variables are therefore an
// interface: they have the names and meanings of diskimage-builder's, and
// other insides. What only its driver calls is not here; imgbuild does that
// itself. The files need bash and the usual programs, no Python, and they need
// neither imgbuild nor each other's place on the host.
package hooklib

import (
	"embed"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed lib
var lib embed.FS

// Write puts the library into dir, which is made when it is not there. Files
// that are there are replaced. All are executable: dib-run-parts is run, and
// elements copy the rest as it is.
func Write(dir string) error {
	files, err := fs.Sub(lib, "lib")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		// A new file: the mode of an old one, or the target of a link, is not touched.
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
		if err := os.WriteFile(path, content, 0o755); err != nil {
			return err
		}
		return os.Chmod(path, 0o755) // whatever the umask is
	})
}
