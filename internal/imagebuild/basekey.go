package imagebuild

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// baseFormat changes when this code makes another tree of the same inputs.
const baseFormat = "base/2"

// forBase tells whether root.d hooks may read a part of the hooks tree through
// TMP_HOOKS_PATH: all but the other phases and what these copy into an image.
// diskimage-builder's hooks read bin/extract-image and yum.repos.d there. A
// change in such a part makes another base tree, a change in the rest does
// not. README files are for people.
func forBase(name string) bool {
	switch name {
	case "smoke.d", "os-refresh-config", "os-apply-config", "static":
		return false
	}
	return !strings.HasPrefix(name, "README") &&
		!slices.ContainsFunc(phases[1:], func(p phase) bool { return p.name == name })
}

// baseKey names what a base tree depends on: the packages, the sources they
// come from, the environment of the root.d hooks and what these find in the
// hooks tree. Where the build lies and which proxies it uses is not in it, nor
// are the host's programs and the state of the package mirror: see
// Options.Refresh.
func (b *build) baseKey() (string, error) {
	k := key{sha256.New()}
	k.list(baseFormat)
	k.list(b.packages...)
	k.list(b.def.Mirror...)
	k.list(slices.DeleteFunc(list(b.settings(rootPhase)), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return slices.Contains(proxies, name)
	})...)
	entries, err := os.ReadDir(b.hooks)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !forBase(e.Name()) {
			continue
		}
		if err := k.tree(b.hooks, e.Name()); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(k.Sum(nil))[:32], nil
}

// key is a digest of lists and files, each framed by its length.
type key struct{ hash.Hash }

func (k key) list(words ...string) {
	fmt.Fprintf(k, "%d:", len(words))
	for _, w := range words {
		fmt.Fprintf(k, "%d:%s", len(w), w)
	}
}

// tree adds what a hook can tell of a file, link or directory, and of all
// below it: names, kinds, modes and contents.
func (k key) tree(top, name string) error {
	return filepath.WalkDir(filepath.Join(top, name), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, p)
		if err != nil {
			return err
		}
		content := ""
		switch fi.Mode().Type() {
		case 0:
			content, err = digest(p)
		case fs.ModeSymlink:
			content, err = os.Readlink(p)
		}
		k.list(rel, fi.Mode().String(), content)
		return err
	})
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return string(h.Sum(nil)), err
}
