package collectcfg

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
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
type Cache struct {
	Dir string
	// Backup is where Dir is copied when something has changed; empty: nowhere.
	Backup string
	// Original lets documents of the same name follow each other, the last one
	// staying, and writes the list only when a document has changed.
	Original bool
}

const (
	dirMode  = 0o700
	fileMode = 0o600
)

// Lock keeps other processes from using the cache until release; an error of
// status [command.StatusBusy] says that one does.
func (c *Cache) Lock() (release func(), err error) {
	if err := os.MkdirAll(c.Dir, dirMode); err != nil {
		return nil, err
	}
	f, err := filelock.TryDir(c.Dir, filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		err := fmt.Errorf("cache %s: another collectcfg uses it", c.Dir)
		return nil, command.Busy(err, "end that one, or name another directory with --cachedir")
	}
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// Store writes the documents, and the list of their paths when it has
// changed. changed are the names of the documents the command has not yet
// succeeded with.
func (c *Cache) Store(docs []Document) (paths, changed []string, err error) {
	mode := os.FileMode(dirMode)
	if c.Original {
		if len(docs) == 0 {
			return nil, nil, nil
		}
		mode = 0o777
	}
	if err := os.MkdirAll(c.Dir, mode); err != nil {
		return nil, nil, err
	}
	if err := c.check(docs); err != nil {
		return nil, nil, err
	}
	list := []any{}
	for _, d := range docs {
		isNew, err := c.store(d)
		if err != nil {
			return nil, nil, err
		}
		if isNew {
			changed = append(changed, d.Name)
		}
		paths, list = append(paths, c.path(d.Name)), append(list, c.path(d.Name))
	}
	if !c.Original || len(changed) > 0 {
		err = write(c.path(listName), []byte(metadata.JSON(list)))
	}
	if err == nil && c.Backup != "" && len(changed) > 0 {
		err = c.backUp()
	}
	return paths, changed, err
}

// check says whether each document has a name of its own that a file can have.
func (c *Cache) check(docs []Document) error {
	seen := map[string]bool{}
	for _, d := range docs {
		taken := seen[d.Name] && !c.Original || d.Name == listName
		if taken || !filepath.IsLocal(d.Name) || filepath.Base(d.Name) != d.Name {
			err := fmt.Errorf("document %q: the name is taken or no file name", d.Name)
			return command.BadInput(err, "rename it at its source")
		}
		seen[d.Name] = true
	}
	return nil
}

func (c *Cache) path(name string) string { return filepath.Join(c.Dir, name+".json") }

// store writes one document and says whether it differs from the last one
// the command succeeded with.
func (c *Cache) store(d Document) (changed bool, err error) {
	path, body := c.path(d.Name), d.Raw
	if body == nil {
		body = []byte(metadata.Indented(d.Value))
	}
	for name, data := range d.Keep {
		if err := write(filepath.Join(c.Dir, name), data); err != nil {
			return false, err
		}
	}
	if _, err := os.Stat(path + ".orig"); errors.Is(err, fs.ErrNotExist) {
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
	return changed || !bytes.Equal(last, body) && !same(last, d), nil
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

// Commit remembers that the command succeeded with these documents, and with
// the list.
func (c *Cache) Commit(names []string) error {
	if !c.Original {
		names = append([]string{listName}, names...)
	}
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

// begin forgets that the command succeeded, until it does so again: one that
// failed, or that a loss of power ended, may have left anything.
func (c *Cache) begin() error {
	if c.Original {
		return nil
	}
	err := os.Remove(c.path(listName) + ".last")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// listed says whether the command, when it was last run, succeeded, and with
// documents of these paths in this order.
func (c *Cache) listed(paths []string) (succeeded, same bool) {
	before, err := readList(c.path(listName) + ".last")
	return err == nil, err == nil && slices.Equal(before, paths)
}

func readList(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := metadata.Parse(path, b)
	list, _ := v.([]any)
	var names []string
	for _, e := range list {
		if s, ok := e.(string); ok {
			names = append(names, s)
		}
	}
	return names, err
}

// rememberName is the file that says which documents are of which source.
const rememberName = "sources"

// remember notes which documents each source delivered, for when it cannot be
// asked after the next start.
func (c *Cache) remember(sources []Source, delivered [][]Document) {
	all := &metadata.Object{}
	for i, s := range sources {
		names := []any{}
		for _, d := range delivered[i] {
			names = append(names, d.Name)
		}
		all.Set(s.Name, names)
	}
	if err := os.MkdirAll(c.Dir, dirMode); err == nil {
		_ = write(filepath.Join(c.Dir, rememberName), []byte(metadata.JSON(all))) // without it, only an outage is worse
	}
}

// recall returns the documents that a source delivered when it was last
// asked, maybe by an earlier process; nil when there are none.
func (c *Cache) recall(source string) []Document {
	b, err := os.ReadFile(filepath.Join(c.Dir, rememberName))
	if err != nil {
		return nil
	}
	v, _ := metadata.Parse(rememberName, b)
	o, _ := v.(*metadata.Object)
	names, _ := o.Get(source)
	list, _ := names.([]any)
	var docs []Document
	for _, n := range list {
		name, _ := n.(string)
		if name == "" || strings.Contains(name, "/") {
			return nil
		}
		b, err := os.ReadFile(c.path(name))
		if err != nil {
			return nil
		}
		d := document(name, b)
		d.Deployment = name != source && source != "local"
		docs = append(docs, d)
	}
	return docs
}

// backUp copies the directory to Backup, replacing what is there.
func (c *Cache) backUp() error {
	if within(c.Dir, c.Backup) || within(c.Backup, c.Dir) {
		err := fmt.Errorf("backup-cachedir %s: would replace the cache %s", c.Backup, c.Dir)
		return command.BadInput(err, "name another directory")
	}
	if err := os.RemoveAll(c.Backup); err != nil {
		return err
	}
	fi, err := os.Stat(c.Dir)
	if err != nil {
		return err
	}
	if err := copyTree(c.Dir, c.Backup); err != nil {
		return err
	}
	return os.Chmod(c.Backup, fi.Mode().Perm())
}

// within says that a path is a directory, or below it.
func within(path, dir string) bool {
	a, err1 := filepath.Abs(path)
	b, err2 := filepath.Abs(dir)
	return err1 != nil || err2 != nil || a == b || b == "/" || strings.HasPrefix(a, b+"/")
}

// copyTree copies regular files and directories with their modes. What was
// deep in the source is small: documents and what collectors keep.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		dest := filepath.Join(to, strings.TrimPrefix(path, from))
		fi, err := e.Info()
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return os.MkdirAll(dest, fi.Mode().Perm()|0o700)
		case !fi.Mode().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dest, data, fi.Mode().Perm())
	})
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

// cached returns the document of this name that was collected last, if it is
// worth anything; nil when not.
func (c *Cache) cached(name string) []Document {
	b, err := os.ReadFile(c.path(name))
	if err != nil {
		return nil
	}
	d := document(name, b)
	if d.Raw != nil || falsy(d.Value) {
		return nil
	}
	return []Document{d}
}
