package imagebuild

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

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
