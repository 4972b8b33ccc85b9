// Package layer keeps what the steps of builds changed in a tree, so that a
// step that is asked for again need not run again.
//
// A layer is a directory, KEY, below a store's: diff holds the changes as an
// overlay file system's upper layer has them, files lists them with their
// digests, and layer.json says what the layer is. It appears by rename when it
// is complete, so that what a killed build leaves is not mistaken for one. The
// key names everything that the step depends on; the store does not look into
// it.
//
// A layer is checked before each use: by the inode numbers, sizes and change
// times of its files, and where those are not what they were (a cache that was
// copied, a machine that was started again) by their content. One that is
// damaged is removed, and its step runs again.
//
// The package runs no steps and mounts nothing.
package layer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/filelock"
)

// Names inside a layer's directory.
const (
	diffDir  = "diff"
	listFile = "files"
	metaFile = "layer.json"
)

// keyRE is what keys look like: a digest in hexadecimal digits.
var keyRE = regexp.MustCompile(`^[0-9a-f]{16,64}$`)

// Meta is what a store knows of a layer: layer.json.
type Meta struct {
	Key     string        `json:"-"`
	Step    string        `json:"step"`              // what made it, for people
	Element string        `json:"element,omitempty"` // whose hook that is
	Below   []string      `json:"below,omitempty"`   // keys of the layers under it, the lowest first
	Took    time.Duration `json:"took"`              // nanoseconds that the step ran
	Size    int64         `json:"size"`              // bytes of its regular files, holes not counted
	Files   int           `json:"files"`             // names in it
	Digest  string        `json:"digest"`            // SHA-256 of the list of files
	Stamp   string        `json:"stamp"`             // what stat(2) says of all files
	Used    time.Time     `json:"-"`                 // when it was last asked for
}

// Store is a directory of layers. Several processes may use it at a time.
type Store struct{ dir string }

// Open returns the store in a directory, which is made when it is not there.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("layers: %w", err)
	}
	return &Store{dir}, nil
}

// Layer is a layer in use: nobody removes it before it is closed.
type Layer struct {
	Meta
	dir  string
	lock *os.File
}

// Diff is the directory of the layer's changes.
func (l *Layer) Diff() string { return filepath.Join(l.dir, diffDir) }

// Empty tells whether the step changed nothing.
func (l *Layer) Empty() bool { return l.Files == 0 }

// Close lets others remove the layer.
func (l *Layer) Close() error { return l.lock.Close() }

// Has tells whether there is a layer of that key, without a check.
func (s *Store) Has(key string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, key, metaFile))
	return err == nil
}

// ErrDamaged says that a layer was not what was put into the store. It is gone
// now.
var ErrDamaged = errors.New("a layer of the cache is damaged")

// Get returns the layer of that key, checked. A layer that is not there, or is
// being removed, is an error that os.IsNotExist knows.
func (s *Store) Get(ctx context.Context, key string) (*Layer, error) {
	dir := filepath.Join(s.dir, key)
	lock, err := filelock.TryDir(dir, filelock.Shared)
	if errors.Is(err, filelock.ErrLocked) {
		err = &os.PathError{Op: "lock", Path: dir, Err: os.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	l := &Layer{dir: dir, lock: lock}
	if l.Meta, err = readMeta(dir); err == nil {
		err = l.check(ctx)
	}
	if err == nil {
		now := time.Now()
		err = os.Chtimes(filepath.Join(dir, metaFile), now, now)
		if errors.Is(err, os.ErrPermission) || isReadOnly(err) {
			err = nil // a cache that may only be read: nobody prunes it
		}
	}
	if errors.Is(err, ErrDamaged) {
		return nil, errors.Join(err, lock.Close(), s.Remove(key))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return l, nil
}

func readMeta(dir string) (Meta, error) {
	m := Meta{Key: filepath.Base(dir)}
	path := filepath.Join(dir, metaFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, fmt.Errorf("%w: %s: %v", ErrDamaged, path, err)
	}
	if fi, err := os.Stat(path); err == nil {
		m.Used = fi.ModTime()
	}
	return m, nil
}

// check compares the layer's files with what they were.
func (l *Layer) check(ctx context.Context) error {
	stamp, err := stampOf(l.Diff())
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrDamaged, l.Key, err)
	}
	if stamp == l.Stamp {
		return nil
	}
	list, err := listOf(ctx, l.Diff())
	if err := ctx.Err(); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %v", ErrDamaged, l.Key, err)
	}
	if list.digest() != l.Digest {
		return fmt.Errorf("%w: %s: %s", ErrDamaged, l.Key, list.difference(filepath.Join(l.dir, listFile)))
	}
	l.Stamp = stamp
	if err := l.write(l.dir); !isReadOnly(err) && !errors.Is(err, os.ErrPermission) {
		return err
	}
	return nil
}

func (m *Meta) write(dir string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, metaFile), append(text, '\n'), 0o644)
}

// Put makes a layer of the changes in work/diff, where work is a directory of
// the caller's on the store's file system, and returns it. Where another
// process was faster, its layer is returned and the changes are left alone;
// else work is gone.
func (s *Store) Put(ctx context.Context, work string, m Meta) (*Layer, error) {
	if !keyRE.MatchString(m.Key) {
		return nil, fmt.Errorf("layer key %q: expected a digest in hexadecimal digits", m.Key)
	}
	list, err := listOf(ctx, filepath.Join(work, diffDir))
	if err != nil {
		return nil, err
	}
	m.Digest, m.Size, m.Files = list.digest(), list.size, len(list.lines)
	if m.Stamp, err = stampOf(filepath.Join(work, diffDir)); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(work, listFile), list.text(), 0o644); err != nil {
		return nil, err
	}
	if err := m.write(work); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.dir, m.Key)
	// Locked before others can see it.
	lock, err := filelock.TryDir(work, filelock.Shared)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(work, dir); err != nil {
		if other, getErr := s.Get(ctx, m.Key); getErr == nil {
			return other, lock.Close()
		}
		return nil, errors.Join(err, lock.Close())
	}
	return &Layer{Meta: m, dir: dir, lock: lock}, nil
}

// Remove removes a layer that nobody uses; one that is in use is
// filelock.ErrLocked. One that is not there is no error.
func (s *Store) Remove(key string) error {
	dir := filepath.Join(s.dir, key)
	lock, err := filelock.TryDir(dir, filelock.Exclusive)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	// Out of sight first: a removal that is interrupted leaves a part.
	trash, err := os.MkdirTemp(s.dir, trashPrefix)
	if err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(trash, key)); err != nil {
		return errors.Join(err, os.Remove(trash))
	}
	return os.RemoveAll(trash)
}

// trashPrefix begins the names of directories that are being removed.
const trashPrefix = ".removed-"
