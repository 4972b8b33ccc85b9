package imagebuild

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What was used last stays, a repository as a whole, and everything that is
// no layer while a build runs.
func TestPruneBeside(t *testing.T) {
	dir := t.TempDir()
	c, err := openCache(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"downloads/a.deb", "results/b", "downloads/repo/objects/c", "downloads/repo/HEAD", "digests/d"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, 100), 0o644); err != nil {
			t.Fatal(err)
		}
		when := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(path, when, when); err != nil {
			t.Fatal(err)
		}
	}
	prune := func(keep, left int64, want ...string) {
		t.Helper()
		removed, stays, err := c.pruneBeside(t.Context(), keep)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range removed {
			got = append(got, strings.TrimPrefix(r.Key, dir+"/"))
			if _, err := os.Lstat(r.Key); !os.IsNotExist(err) {
				t.Errorf("%s is still there", r.Key)
			}
		}
		if !slices.Equal(got, want) || stays != left {
			t.Errorf("prune to %d removed %v and left %d; want %v, %d", keep, got, stays, want, left)
		}
	}
	w, err := c.newWork(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	prune(0, 500)
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	prune(500, 500)
	prune(350, 300, "results/b", "downloads/a.deb")
	prune(150, 100, "downloads/repo")
	prune(0, 0, "digests/d")
	prune(0, 0)
}
