package imagebuild

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/layer"
)

// Cache is what builds keep, for whoever looks after it.
type Cache struct{ c *cache }

// CachedLayer is a layer of the cache.
type CachedLayer struct {
	Key     string    `json:"key"`
	Step    string    `json:"step"`
	Element string    `json:"element,omitempty"`
	Size    int64     `json:"size"` // bytes of its files
	Used    time.Time `json:"used"` // the last time
}

// OpenCache opens the cache in a directory; empty means the user's own.
func OpenCache(dir string) (*Cache, error) {
	c, err := openCache(dir)
	return &Cache{c}, err
}

// List returns all layers, the last used first.
func (c *Cache) List() ([]CachedLayer, error) {
	all, err := c.c.layers.All()
	return cached(all), err
}

// Prune removes the layers that were not used for longest until the rest has
// at most keep bytes, and what killed builds left. It returns what it removed.
func (c *Cache) Prune(ctx context.Context, keep int64) ([]CachedLayer, error) {
	w, err := c.c.newWork(ctx, nil) // which sweeps
	if err != nil {
		return nil, err
	}
	if err := w.close(); err != nil {
		return nil, err
	}
	removed, err := c.c.layers.Prune(keep)
	return cached(removed), err
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

func cached(list []layer.Meta) []CachedLayer {
	out := make([]CachedLayer, len(list))
	for i, m := range list {
		out[i] = CachedLayer{m.Key, m.Step, m.Element, m.Size, m.Used}
	}
	return out
}
