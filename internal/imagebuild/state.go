package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"goldsmith/internal/filelock"
	"goldsmith/internal/layer"
	"goldsmith/internal/rootfs"
)

// state is the directory that the steps of a build work on: the image's tree
// in mnt, and beside it what hooks are given and leave (TMP_BUILD_DIR). It is
// an overlay: at the bottom what this build prepared, over it the layers of
// steps that were done, on top what the running step changes. It is mounted at
// the same path in every build that shares a cache, so that the path of one
// build cannot make its image another one.
type state struct {
	dir     string // where it is mounted, in this build's namespace
	initial string // what this build prepared
	scratch string // where the running step's changes are kept
	locks   string // directory for the locks of steps
	store   *layer.Store
	layers  []*layer.Layer  // that lie under the state, the lowest first
	key     string          // of the last step that was done or taken
	mounted string          // the scratch of the mount; empty: not mounted
	dirty   bool            // something was done since the last layer
	frozen  bool            // nothing is kept from here on
	count   int             // of mounts
	damaged map[string]bool // keys of layers that were
}

// open mounts the state, if it is not.
func (s *state) open() error {
	if s.mounted != "" {
		return nil
	}
	lower := []string{s.initial}
	for _, l := range s.layers {
		if !l.Empty() {
			lower = append(lower, l.Diff())
		}
	}
	s.count++
	scratch := filepath.Join(s.scratch, strconv.Itoa(s.count))
	if err := rootfs.Overlay(s.dir, lower, scratch); err != nil {
		return err
	}
	s.mounted = scratch
	return nil
}

// shut unmounts a state in which nothing was done.
func (s *state) shut() error {
	if s.mounted == "" {
		return nil
	}
	scratch := s.mounted
	s.mounted = ""
	return errors.Join(rootfs.EndOverlay(s.dir, scratch), os.RemoveAll(scratch))
}

// take goes on from a layer that was kept: it reports whether there is one, and
// all that it lies on. It must not be called when something was done that is
// not in a layer.
func (s *state) take(ctx context.Context, key string) (bool, error) {
	if s.frozen || s.dirty || !s.store.Has(key) {
		return false, nil
	}
	top, err := s.store.Get(ctx, key)
	if err != nil {
		return false, s.unusable(key, err)
	}
	below := make([]*layer.Layer, 0, len(top.Below)+1)
	for _, k := range top.Below {
		l := s.holds(k)
		if l == nil {
			if l, err = s.store.Get(ctx, k); err != nil {
				s.release(append(below, top))
				return false, s.unusable(k, err)
			}
		}
		below = append(below, l)
	}
	if err := s.shut(); err != nil {
		return false, err
	}
	old := s.layers
	s.layers, s.key = append(below, top), key
	s.release(old)
	return true, nil
}

// unusable passes on errors of the cache that are no reason to run a step
// again.
func (s *state) unusable(key string, err error) error {
	if errors.Is(err, layer.ErrDamaged) {
		if s.damaged == nil {
			s.damaged = map[string]bool{}
		}
		s.damaged[key] = true
	}
	if os.IsNotExist(err) || errors.Is(err, layer.ErrDamaged) {
		return nil
	}
	return err
}

func (s *state) holds(key string) *layer.Layer {
	for _, l := range s.layers {
		if l.Key == key {
			return l
		}
	}
	return nil
}

// release closes layers that the state does not lie on.
func (s *state) release(list []*layer.Layer) {
	for _, l := range list {
		if s.holds(l.Key) != l {
			_ = l.Close()
		}
	}
}

// keep makes a layer of what the step, and those before it that have none,
// changed. Nothing is kept while something is mounted on the state: a hook
// lent it a directory and has not taken it back.
func (s *state) keep(ctx context.Context, st *step, took time.Duration) error {
	s.key, s.dirty = st.Key, true
	lent, err := rootfs.MountedBelow(s.dir)
	if err != nil {
		return err
	}
	if s.frozen || st.Always != "" || lent || len(s.layers) >= rootfs.MaxLower-1 {
		return nil
	}
	if err := rootfs.EndOverlay(s.dir, s.mounted); err != nil {
		return err
	}
	m := layer.Meta{Key: st.Key, Step: st.Name, Element: st.Element, Took: took}
	for _, l := range s.layers {
		m.Below = append(m.Below, l.Key)
	}
	l, err := s.store.Put(ctx, s.mounted, m)
	if err != nil {
		return explainFull(s.dir, err)
	}
	s.layers, s.dirty = append(s.layers, l), false
	scratch := s.mounted
	s.mounted = ""
	return os.RemoveAll(scratch) // where another build was faster
}

// lock waits until no other build runs the step, and returns what keeps others
// from running it; nil where nothing would be kept.
func (s *state) lock(ctx context.Context, key string, waiting func()) (*os.File, error) {
	if s.frozen || s.dirty {
		return nil, nil
	}
	return filelock.Lock(ctx, filepath.Join(s.locks, key+stepSuffix), filelock.Exclusive, waiting)
}

// close gives back the layers and unmounts the state.
func (s *state) close() error {
	err := rootfs.Unmount(s.dir)
	list := s.layers
	s.layers = nil
	s.release(list)
	return err
}

// note writes down something that later steps must know.
func (s *state) note(name string, n int64) error {
	return os.WriteFile(filepath.Join(s.dir, name), []byte(strconv.FormatInt(n, 10)), 0o644)
}

// noted reads it back; 0 where nothing was noted.
func (s *state) noted(name string) (int64, error) {
	text, err := os.ReadFile(filepath.Join(s.dir, name))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join(s.dir, name), err)
	}
	return n, nil
}
