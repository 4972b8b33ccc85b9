package imagebuild

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// usage is what du(1) says of a tree: blocks in use on its file system, hard
// links once, in KiB for each path, what lies below included.
type usage struct{ kib map[string]int64 }

func diskUsage(root string) (*usage, error) {
	var top unix.Stat_t
	if err := unix.Lstat(root, &top); err != nil {
		return nil, err
	}
	u := &usage{map[string]int64{}}
	seen := map[uint64]bool{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if d.IsDir() && st.Dev != top.Dev {
			return filepath.SkipDir
		}
		if st.Nlink > 1 && !d.IsDir() {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		for ; rel != "."; rel = filepath.Dir(rel) {
			u.kib[rel] += st.Blocks / 2
		}
		u.kib["."] += st.Blocks / 2
		return nil
	})
	return u, err
}

// report lists what is large: files and directories of 10 MiB and more, or
// everything.
func (u *usage) report(w io.Writer, everything bool) {
	least, title := int64(10<<10), "Image size report (files > 10MiB)"
	if everything {
		least, title = 0, "Image size report"
	}
	fmt.Fprintln(w, title)
	paths := slices.SortedFunc(maps.Keys(u.kib), func(a, b string) int {
		return cmp.Or(cmp.Compare(u.kib[b], u.kib[a]), strings.Compare(a, b))
	})
	for _, p := range paths {
		if u.kib[p] >= least {
			fmt.Fprintf(w, "%9.1fMiB /%s\n", float64(u.kib[p])/1024, strings.TrimPrefix(p, "."))
		}
	}
	fmt.Fprintln(w, "===== end image size report =====")
}
