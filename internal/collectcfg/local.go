package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/metadata"
)

// DefaultLocal is where the local source looks.
const DefaultLocal = "/var/lib/os-collect-config/local-data"

// Local reads every file of some directories; a document has its file's
// name. A directory of another user, or anything the whole world may write,
// is not trusted: the source is then unavailable.
type Local struct{ Dirs []string }

// Collect reads the files in the order of their names.
func (l Local) Collect(context.Context) ([]Document, error) {
	var docs []Document
	for _, dir := range l.Dirs {
		fi, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := trusted(dir, fi, true); err != nil {
			return nil, err
		}
		more, err := l.read(dir)
		if err != nil {
			return nil, err
		}
		docs = append(docs, more...)
	}
	if len(docs) == 0 {
		return nil, unavailable{fmt.Errorf("no metadata in %s", strings.Join(l.Dirs, ", "))}
	}
	slices.SortStableFunc(docs, func(a, b Document) int { return strings.Compare(a.Name, b.Name) })
	return docs, nil
}

func (l Local) read(dir string) ([]Document, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var docs []Document
	for _, e := range names {
		path := filepath.Join(dir, e.Name())
		fi, err := os.Stat(path)
		if strings.HasPrefix(e.Name(), ".") || err == nil && fi.IsDir() {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := trusted(path, fi, false); err != nil {
			return nil, err
		}
		data, err := readBounded(unix.AT_FDCWD, path, 0)
		if err != nil {
			return nil, err
		}
		docs = append(docs, document(e.Name(), data))
	}
	return docs, nil
}

// document parses what a source delivers; what is no JSON is passed on.
func document(name string, data []byte) Document {
	v, err := metadata.Parse(name, data)
	if err != nil {
		return Document{Name: name, Raw: data}
	}
	return Document{Name: name, Value: v}
}

func trusted(path string, fi os.FileInfo, owned bool) error {
	if fi.Mode().Perm()&0o002 != 0 {
		return unavailable{fmt.Errorf("%s: everybody may write it; not trusted", path)}
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if owned && int(st.Uid) != os.Geteuid() {
		return unavailable{fmt.Errorf("%s: belongs to user %d; not trusted", path, st.Uid)}
	}
	return nil
}
