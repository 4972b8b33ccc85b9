package imagebuild

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/element"
	"goldsmith/internal/testenv"
)

// tiny makes an elements directory with the smallest operating system, and
// the given files beside it.
func tiny(t *testing.T, files map[string]string) element.Path {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedFile(t, "/bin/busybox")
	dir := t.TempDir()
	hooksTree(t, dir, map[string]string{
		"tiny/element-provides": "operating-system\n",
		"tiny/root.d/10-tiny*": `#!/bin/sh
set -eu
mkdir -p "$TARGET_ROOT/bin" "$TARGET_ROOT/etc" "$TARGET_ROOT/tmp"
cp /bin/busybox "$TARGET_ROOT/bin/busybox"
ln -s busybox "$TARGET_ROOT/bin/sh"
`,
	})
	hooksTree(t, dir, files)
	return element.Path{dir}
}

// testBuild builds an erofs image called name of the elements, and returns
// what it said.
func testBuild(t *testing.T, ctx context.Context, opts Options, name string, elements ...string) (*Result, string, error) {
	t.Helper()
	p, out := progress(t)
	opts.Progress = p
	def := &Definition{Name: name, Version: "0", Arch: "amd64", Release: "test", Elements: elements, Outputs: []string{"erofs"}}
	res, err := Build(ctx, def, opts)
	p.Close()
	return res, out.String(), err
}

// A base tree is not replaced while another build uses it, and builds of
// other names share it.
func TestRefreshWaitsForUsers(t *testing.T) {
	opts := Options{Out: t.TempDir(), Elements: tiny(t, nil), Cache: t.TempDir()}
	if _, _, err := testBuild(t, t.Context(), opts, "first", "tiny"); err != nil {
		t.Fatal(err)
	}
	b := &build{def: &Definition{Release: "test"}, opts: opts, cache: &cache{opts.Cache}}
	b.progress, _ = progress(t)
	trees, err := os.ReadDir(filepath.Join(opts.Cache, "base"))
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	for _, e := range trees {
		if e.IsDir() {
			dir = filepath.Join(opts.Cache, "base", e.Name())
		}
	}
	used, made, err := b.takeBase(t.Context(), dir)
	if err != nil || made {
		t.Fatalf("takeBase = made %t, %v; want the tree of the first build", made, err)
	}
	refresh := opts
	refresh.Refresh = true
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockPoll)
	defer cancel()
	_, said, err := testBuild(t, ctx, refresh, "second", "tiny")
	if err == nil || strings.Count(said, "waiting for another build of this base tree") != 1 {
		t.Errorf("a refresh of a tree in use: %v, said:\n%s", err, said)
	}
	if _, err := os.Stat(filepath.Join(used.root, "bin/busybox")); err != nil {
		t.Errorf("the tree was changed under its user: %v", err)
	}
	// Who only reads it need not wait, whatever the image is called.
	if _, said, err := testBuild(t, t.Context(), opts, "third", "tiny"); err != nil || !strings.Contains(said, "cached") {
		t.Errorf("a second user: %v, said:\n%s", err, said)
	}
	time.AfterFunc(lockPoll, func() { _ = used.close() })
	if _, said, err := testBuild(t, t.Context(), refresh, "second", "tiny"); err != nil || strings.Contains(said, "cached") {
		t.Errorf("a refresh after that: %v, said:\n%s", err, said)
	}
}

// Builds that start together make one base tree and give the same bytes.
func TestBuildsShareACache(t *testing.T) {
	path := tiny(t, nil)
	cache := t.TempDir()
	var all sync.WaitGroup
	digests := make([]string, 3)
	made := make([]bool, len(digests))
	for i := range digests {
		all.Go(func() {
			res, said, err := testBuild(t, t.Context(), Options{Out: t.TempDir(), Elements: path, Cache: cache}, "t", "tiny")
			if err != nil {
				t.Error(err)
				return
			}
			digests[i], made[i] = res.Outputs[0].SHA256, !strings.Contains(said, "cached")
		})
	}
	all.Wait()
	n := 0
	for i, d := range digests {
		if d != digests[0] {
			t.Errorf("build %d has the digest %s, build 0 %s", i, d, digests[0])
		}
		if made[i] {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d of the builds made the base tree; want 1", n)
	}
}

// A root.d hook that lends the tree a directory of the host and fails, or
// does not take it away, costs the host nothing.
func TestHookLeavesMount(t *testing.T) {
	for _, end := range []string{"exit 1", "exit 0"} {
		t.Run(end, func(t *testing.T) {
			precious := t.TempDir()
			file := filepath.Join(precious, "x.deb")
			if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			path := tiny(t, map[string]string{
				"lend/root.d/20-lend*":       "#!/bin/sh\nset -eu\nmkdir -p $TARGET_ROOT/var/cache/apt\nmount --bind " + precious + " $TARGET_ROOT/var/cache/apt\n" + end + "\n",
				"lend/extra-data.d/20-lend*": "#!/bin/sh\nset -eu\nmkdir -p $TARGET_ROOT/opt\nmount --bind " + precious + " $TARGET_ROOT/opt\n",
			})
			cache, out := t.TempDir(), t.TempDir()
			_, _, err := testBuild(t, t.Context(), Options{Out: out, Elements: path, Cache: cache}, "t", "tiny", "lend")
			if (err != nil) != (end == "exit 1") {
				t.Errorf("Build = %v", err)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("the host's file is gone: %v", err)
			}
			if mounts, _ := os.ReadFile("/proc/self/mounts"); strings.Contains(string(mounts), cache) {
				t.Errorf("mounts are left:\n%s", mounts)
			}
			// The tree ends where something is mounted on it.
			if b, err := os.ReadFile(filepath.Join(out, "t.erofs")); err == nil && strings.Contains(string(b), "x.deb") {
				t.Error("the host's file is in the image")
			}
		})
	}
}
