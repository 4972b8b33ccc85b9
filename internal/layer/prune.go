package layer

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/filelock"
)

// All returns what is known of every layer, the one that was used last first.
func (s *Store) All() ([]Meta, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var all []Meta
	for _, e := range entries {
		if !keyRE.MatchString(e.Name()) {
			continue
		}
		m, err := readMeta(filepath.Join(s.dir, e.Name()))
		switch {
		case err == nil:
			all = append(all, m)
		case errors.Is(err, os.ErrNotExist): // removed meanwhile
		case errors.Is(err, ErrDamaged):
			all = append(all, m) // the first to go
		default:
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b Meta) int {
		if c := b.Used.Compare(a.Used); c != 0 {
			return c
		}
		// Layers that were used together: what lies below stays longer.
		if c := len(a.Below) - len(b.Below); c != 0 {
			return c
		}
		return strings.Compare(a.Key, b.Key)
	})
	return all, nil
}

// Prune removes the layers that were not used for longest until those that
// are left hold at most keep bytes, and returns what it removed. Layers in use
// stay, and count. What killed processes left of removals goes, too.
func (s *Store) Prune(keep int64) ([]Meta, error) {
	if err := s.sweep(); err != nil {
		return nil, err
	}
	all, err := s.All()
	if err != nil {
		return nil, err
	}
	var total int64
	for _, m := range all {
		total += m.Size
	}
	var removed []Meta
	gone := map[string]bool{}
	for _, m := range slices.Backward(all) {
		// A layer without what lies below it is of no use.
		if total <= keep && !slices.ContainsFunc(m.Below, func(k string) bool { return gone[k] }) {
			continue
		}
		switch err := s.Remove(m.Key); {
		case errors.Is(err, filelock.ErrLocked):
			continue
		case err != nil:
			return removed, err
		}
		gone[m.Key] = true
		total -= m.Size
		removed = append(removed, m)
	}
	return removed, nil
}

// sweep removes what was on its way out when a process was killed.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), trashPrefix) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
