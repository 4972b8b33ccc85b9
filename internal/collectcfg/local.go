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
// is not trusted, and a name that would break the list in OS_CONFIG_FILES is of
// no use: the source is then unavailable. Symbolic links are followed inside of
// a directory only.
type Local struct {
	Dirs []string
	// Original follows links anywhere, takes any name, and makes the source unavailable when a
	// file is no JSON.
	Original bool
}

// Notify wakes when a file comes, goes or changes.
func (l Local) Notify(ctx context.Context, wake func()) error { return watch(ctx, l.Dirs, wake) }

// Collect reads the files in the order of their names.
func (l Local) Collect(context.Context) ([]Document, error) {
	docs, there := []Document{}, false
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
		docs, there = append(docs, more...), true
	}
	if len(docs) == 0 && (!there || !l.Original) {
		return nil, unavailable{fmt.Errorf("no metadata in %s", strings.Join(l.Dirs, ", "))}
	}
	slices.SortStableFunc(docs, func(a, b Document) int { return strings.Compare(a.Name, b.Name) })
	return docs, nil
}

func (l Local) read(path string) ([]Document, error) {
	dir, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	resolve := uint64(unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS)
	if l.Original {
		resolve = 0
	}
	var docs []Document
	for _, e := range entries {
		d, err := l.file(int(dir.Fd()), filepath.Join(path, e.Name()), resolve)
		if err != nil {
			return nil, err
		}
		if d != nil {
			docs = append(docs, *d)
		}
	}
	return docs, nil
}

// file reads one file; nil is for what is no document.
func (l Local) file(dir int, path string, resolve uint64) (*Document, error) {
	name := filepath.Base(path)
	fi, err := os.Stat(path)
	switch {
	case strings.HasPrefix(name, "."), err == nil && fi.IsDir(), errors.Is(err, fs.ErrNotExist) && !l.Original:
		return nil, nil // the last: gone since it was listed, or a link to nowhere
	case err != nil:
		return nil, unavailable{err}
	case !l.Original && strings.ContainsFunc(name, func(c rune) bool { return c == ':' || c < ' ' || c == 0x7f }):
		return nil, unavailable{fmt.Errorf("%q: the name has a colon or a control character; rename the file", path)}
	}
	if err := trusted(path, fi, false); err != nil {
		return nil, err
	}
	data, err := readBounded(dir, name, resolve)
	if errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ELOOP) {
		return nil, unavailable{fmt.Errorf("%s: a link that leads out of the directory; not trusted", path)}
	}
	if err != nil {
		return nil, unavailable{fmt.Errorf("%s: %w", filepath.Dir(path), err)}
	}
	d := document(name, data)
	if d.Raw != nil && l.Original {
		return nil, unavailable{fmt.Errorf("%s: no JSON", path)}
	}
	return &d, nil
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

// HeatLocal reads the files in which other programs keep Heat's metadata, and
// lays them over each other, key by key. One that is no JSON is passed over.
type HeatLocal struct{ Paths []string }

// Notify wakes when one of the files comes, goes or changes.
func (h HeatLocal) Notify(ctx context.Context, wake func()) error { return watch(ctx, h.Paths, wake) }

// Collect delivers one document, "heat_local".
func (h HeatLocal) Collect(context.Context) ([]Document, error) {
	d := Document{Name: "heat_local"}
	for _, path := range h.Paths {
		data, err := readBounded(unix.AT_FDCWD, path, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, unavailable{err}
		}
		v, err := metadata.Parse(path, data)
		if err != nil {
			d.Note = err.Error()
			continue
		}
		if d.Value, err = shallow(d.Value, v); err != nil {
			return nil, unavailable{fmt.Errorf("%s: %w", path, err)}
		}
	}
	if falsy(d.Value) {
		note := ""
		if d.Note != "" {
			note = ": " + d.Note
		}
		return nil, unavailable{fmt.Errorf("no metadata in %s%s", strings.Join(h.Paths, ", "), note)}
	}
	return []Document{d}, nil
}

// shallow lays one value over another: keys replace keys, whole. Over nothing
// goes anything.
func shallow(under, over any) (any, error) {
	if falsy(under) {
		return over, nil
	}
	u, ok1 := under.(*metadata.Object)
	o, ok2 := over.(*metadata.Object)
	if !ok1 || !ok2 {
		return nil, errors.New("not an object")
	}
	all := &metadata.Object{}
	for _, from := range []*metadata.Object{u, o} {
		for k, v := range from.All() {
			all.Set(k, v)
		}
	}
	return all, nil
}

// falsy says what Python takes for false.
func falsy(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case string:
		return v == ""
	case metadata.Number:
		return v.Falsy()
	case []any:
		return len(v) == 0
	case *metadata.Object:
		return v.Len() == 0
	}
	return false
}
