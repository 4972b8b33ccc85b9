package collectcfg

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
)

// DefaultCache is where documents are kept.
const DefaultCache = "/var/lib/os-collect-config"

// listName is the name of the list of documents, without its suffix.
const listName = "os_config_files"

// Cache is a directory of documents. For each there are NAME.json, as last
// collected; NAME.json.orig, as first collected; NAME.json.last, with which
// the command last succeeded. Documents may hold secrets: only the owner may
// read them.
type Cache struct{ Dir string }

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Store writes the documents, and the list of their paths when it has
// changed. changed are the names of the documents the command has not yet
// succeeded with.
func (c *Cache) Store(docs []Document) (paths, changed []string, err error) {
	if err := os.MkdirAll(c.Dir, dirMode); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{listName: true}
	list := []any{}
	for _, d := range docs {
		if seen[d.Name] || !filepath.IsLocal(d.Name) || filepath.Base(d.Name) != d.Name {
			return nil, nil, command.BadInput(fmt.Errorf("document %q: the name is taken or no file name", d.Name), "rename it at its source")
		}
		seen[d.Name] = true
		isNew, err := c.store(d)
		if err != nil {
			return nil, nil, err
		}
		if isNew {
			changed = append(changed, d.Name)
		}
		paths, list = append(paths, c.path(d.Name)), append(list, c.path(d.Name))
	}
	return paths, changed, write(c.path(listName), []byte(metadata.JSON(list)+"\n"))
}

func (c *Cache) path(name string) string { return filepath.Join(c.Dir, name+".json") }

// store writes one document and says whether it differs from the last one
// the command succeeded with.
func (c *Cache) store(d Document) (changed bool, err error) {
	path, body := c.path(d.Name), d.Raw
	if body == nil {
		body = []byte(metadata.Indented(d.Value) + "\n")
	}
	for name, data := range d.Keep {
		if err := write(filepath.Join(c.Dir, name), data); err != nil {
			return false, err
		}
	}
	if _, err := os.Lstat(path + ".orig"); errors.Is(err, fs.ErrNotExist) {
		if err := write(path+".orig", body); err != nil {
			return false, err
		}
		changed = true
	}
	if err := write(path, body); err != nil {
		return false, err
	}
	last, err := os.ReadFile(path + ".last")
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return changed || !same(last, d), nil
}

// same says that the text and the document mean the same.
func same(last []byte, d Document) bool {
	if d.Raw != nil {
		return bytes.Equal(last, d.Raw)
	}
	v, err := metadata.Parse("last", last)
	return err == nil && metadata.Equal(v, d.Value)
}

// write replaces a file unless it already has that content.
func write(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return atomicfile.Write(path, data, fileMode)
}

// Commit remembers that the command succeeded with these documents.
func (c *Cache) Commit(names []string) error {
	for _, n := range names {
		data, err := os.ReadFile(c.path(n))
		if err != nil {
			return err
		}
		if err := write(c.path(n)+".last", data); err != nil {
			return err
		}
	}
	return nil
}

// bootName is the file that names the boot in which the command last
// succeeded.
const bootName = "last-boot"

func (c *Cache) ranIn(boot string) bool {
	last, err := os.ReadFile(filepath.Join(c.Dir, bootName))
	return err == nil && string(last) == boot+"\n"
}

func (c *Cache) mark(boot string) error {
	if boot == "" {
		return nil
	}
	return write(filepath.Join(c.Dir, bootName), []byte(boot+"\n"))
}
