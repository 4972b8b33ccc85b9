package imagebuild

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/layer"
)

// Cache is what builds keep, for whoever looks after it.
type Cache struct{ c *cache }

// Cached is something in the cache.
type Cached struct {
	Kind    string    `json:"kind"` // KindLayer, …
	Key     string    `json:"key"`  // of a layer; else a path
	Step    string    `json:"step,omitempty"`
	Element string    `json:"element,omitempty"`
	Size    int64     `json:"size"` // bytes of its files
	Used    time.Time `json:"used"` // the last time; of what is no layer as exact as the file system's access times
}

// OpenCache opens the cache in a directory; empty means the user's own.
func OpenCache(dir string) (*Cache, error) {
	c, err := openCache(dir)
	return &Cache{c}, err
}

// List returns everything, the last used first, layers before the rest.
func (c *Cache) List() ([]Cached, error) {
	all, err := c.c.layers.All()
	if err != nil {
		return nil, err
	}
	beside, err := c.c.beside()
	slices.SortStableFunc(beside, func(a, b Cached) int { return b.Used.Compare(a.Used) })
	return append(cached(all), beside...), err
}

// Prune removes what was not used for longest until the rest has at most keep
// bytes, and what killed builds left. What running builds use stays. It returns
// what it removed.
func (c *Cache) Prune(ctx context.Context, keep int64) ([]Cached, error) {
	beside, left, err := c.c.pruneBeside(ctx, keep)
	if err != nil {
		return beside, err
	}
	removed, err := c.c.layers.Prune(max(0, keep-left))
	return append(cached(removed), beside...), err
}

// Scratch makes a directory that release removes, with what is mounted below
// it, or the next build when this process is killed.
func (c *Cache) Scratch(ctx context.Context, p *command.Progress) (dir string, release func() error, err error) {
	w, err := c.c.newWork(ctx, p)
	if err != nil {
		return "", nil, err
	}
	return w.dir, w.close, nil
}

// ShareDownloads makes the cache that dir is to be, empty as yet, take what
// builds download from this one.
func (c *Cache) ShareDownloads(dir string) error {
	for _, name := range []string{downloadsName, locksName} {
		kept := filepath.Join(c.c.dir, name)
		if err := os.MkdirAll(kept, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(kept, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

func cached(list []layer.Meta) []Cached {
	out := make([]Cached, len(list))
	for i, m := range list {
		out[i] = Cached{KindLayer, m.Key, m.Step, m.Element, m.Size, m.Used}
	}
	return out
}
