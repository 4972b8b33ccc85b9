package applycfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/template"
)

// DefaultList is where collectcfg writes the list of its metadata files.
const DefaultList = "/var/lib/os-collect-config/os_config_files.json"

// OldList is where the original's predecessor wrote that list. It is read
// where DefaultList is empty.
const OldList = "/var/run/os-collect-config/os_config_files.json"

// maxDocument bounds what is read as one metadata file.
const maxDocument = 64 << 20

// Sources says where the metadata comes from: the first of Files, Env and List
// that is given, and before it Fallback.
type Sources struct {
	// Fallback is read first, so that everything else overrides it. Files of
	// it that are not there are passed over.
	Fallback []string
	// Files were named by the user: each must be there and hold an object.
	Files []string
	// Env is the value of OS_CONFIG_FILES, paths with colons between; nil
	// when the variable is not set.
	Env *string
	// List is the path of a JSON list of paths; a list that is not there is
	// empty. Nil means DefaultList, and OldList where that is empty.
	List *string
	// Original is to pass over Files that are not there or hold no object, as
	// os-apply-config does, and entries of List that Python counts as empty.
	Original bool
	// Deprecated is told the path when OldList is read; with Original also
	// where that is not there. Nil is not told.
	Deprecated func(path string)
}

// OriginalFallback is what os-apply-config reads first unless told otherwise.
func OriginalFallback() []string {
	return []string{"/var/cache/heat-cfntools/last_metadata", "/var/lib/heat-cfntools/cfn-init-data",
		"/var/lib/cloud/data/cfn-init-data"}
}

// FromEnvironment returns the sources of a program that was given files, and
// list as the value of --os-config-files (or ""). A list may also be named by
// OS_CONFIG_FILES_PATH.
func FromEnvironment(files []string, list string) Sources {
	s := Sources{Files: files}
	if v, ok := os.LookupEnv("OS_CONFIG_FILES"); ok {
		s.Env = &v
	}
	if list != "" {
		s.List = &list
	}
	return s
}

// Paths lists the metadata files, the later overriding the earlier, without
// Fallback. One of the list that is empty is left out by Load.
func (s Sources) Paths() ([]string, error) { return s.paths(context.Background()) }

func (s Sources) paths(ctx context.Context) ([]string, error) {
	switch {
	case len(s.Files) > 0:
		return s.Files, nil
	case s.Env != nil:
		return strings.Split(*s.Env, ":"), nil
	}
	normal := DefaultList
	if v, ok := os.LookupEnv("OS_CONFIG_FILES_PATH"); ok {
		normal = v
	}
	list := normal
	if s.List != nil {
		list = *s.List
	}
	paths, err := s.readList(ctx, list)
	if len(paths) == 0 && err == nil && list == normal {
		paths, err = s.readList(ctx, oldList)
		if s.Deprecated != nil && (s.Original || len(paths) > 0) {
			s.Deprecated(oldList)
		}
	}
	return paths, err
}

// oldList is OldList but in tests.
var oldList = OldList

// readList reads a list of paths. An entry that is null is an empty path.
func (s Sources) readList(ctx context.Context, list string) ([]string, error) {
	v, err := readJSON(ctx, list)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	items, ok := v.([]any)
	var paths []string
	for _, i := range items {
		path, isText := i.(string)
		ok = ok && (isText || i == nil || s.Original && falsyJSON(i))
		paths = append(paths, path)
	}
	if !ok {
		return nil, command.BadInput(fmt.Errorf("%s: not a list of paths", list),
			`collectcfg writes it, such as ["/var/lib/os-collect-config/nocloud.json"]`)
	}
	return paths, nil
}

func falsyJSON(v any) bool {
	switch v := v.(type) {
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case template.Falsier:
		return v.Falsy()
	}
	return false
}

// Load merges the metadata files. Unless the user named them, files that are
// not there are passed over, and so is a document that is no object. No
// metadata at all is an empty object.
func (s Sources) Load() (*metadata.Object, error) { return s.LoadContext(context.Background()) }

// LoadContext is Load until the context ends: a pipe may be among the files,
// and nobody write to it.
func (s Sources) LoadContext(ctx context.Context) (*metadata.Object, error) {
	paths, err := s.paths(ctx)
	if err != nil {
		return nil, err
	}
	strict := len(s.Files) > 0 && !s.Original
	var docs []*metadata.Object
	for i, path := range append(s.Fallback[:len(s.Fallback):len(s.Fallback)], paths...) {
		if path == "" {
			continue
		}
		named := strict && i >= len(s.Fallback)
		v, err := readJSON(ctx, path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			if named {
				return nil, command.BadInput(fmt.Errorf("%s: no such metadata file", path),
					"see the paths given with --metadata")
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		o, ok := v.(*metadata.Object)
		if !ok && named {
			return nil, command.BadInput(fmt.Errorf("%s: not a JSON object", path),
				"metadata is an object with keys, {\"key\": value}")
		}
		docs = append(docs, o)
	}
	return metadata.Merge(docs...), nil
}

// Salvage merges what can be read of the metadata files, for reporting that
// the rest cannot. It never fails, and is never for configuration. Pipes, which
// may keep it waiting, are passed over.
func (s Sources) Salvage() *metadata.Object {
	now, stop := context.WithCancel(context.Background())
	stop()
	paths, _ := s.paths(now)
	var docs []*metadata.Object
	for _, path := range paths {
		if data, err := readFile(now, path); err == nil {
			docs = append(docs, metadata.Salvage(data))
		}
	}
	return metadata.Merge(docs...)
}

func readJSON(ctx context.Context, path string) (any, error) {
	data, err := readFile(ctx, path)
	if err != nil {
		return nil, err
	}
	v, err := metadata.Parse(path, data)
	if err != nil {
		return nil, command.BadInput(err, "metadata files are JSON; jq . "+path+" shows the place too")
	}
	return v, nil
}

// readFile reads a document. What is no file, such as a pipe, may take for ever
// to be opened or read: that is left where it is when the context ends.
func readFile(ctx context.Context, path string) ([]byte, error) {
	// Without waiting for who writes to a pipe that has come there since.
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().IsRegular() {
		return readDocument(path, unix.O_NONBLOCK)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	type outcome struct {
		data []byte
		err  error
	}
	done := make(chan outcome, 1)
	go func() {
		data, err := readDocument(path, 0)
		done <- outcome{data, err}
	}()
	select {
	case o := <-done:
		return o.data, o.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s: %w", path, context.Cause(ctx))
	}
}

func readDocument(path string, flag int) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|flag, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Mode().IsRegular() && fi.Size() <= maxDocument {
		return readAll(int(f.Fd()), fi.Size(), nil)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("%s: larger than %d MiB", path, maxDocument>>20)
	}
	return data, err
}
