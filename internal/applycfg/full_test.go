package applycfg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
)

// small mounts a file system of so many KiB on a new directory.
func small(t *testing.T, kib string) string {
	t.Helper()
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=700,size="+kib+"k"); err != nil {
		testenv.Missing(t, "no tmpfs can be mounted: "+err.Error())
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillUp writes a file until its file system is full.
func fillUp(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// The disk fills up after files were replaced: they are given back, the state
// being on that disk, or the files, too.
func TestRollbackOnFullDisk(t *testing.T) {
	for _, files := range []bool{false, true} {
		disk := small(t, "256")
		out := oldSet(t)
		if files {
			if err := os.CopyFS(disk+"/out", os.DirFS(out)); err != nil {
				t.Fatal(err)
			}
			out = disk + "/out"
		}
		write(t, out, map[string]string{"large": strings.Repeat("old ", 5<<10)})
		before := set(t, out)
		o := Output{Dir: out, State: disk + "/state", Keep: true}
		for _, text := range []string{"new", strings.Repeat("newer ", 3<<10)} {
			if _, err := o.Apply(t.Context(), append(newSet(), file("large", text))); err != nil {
				t.Fatal(err)
			}
			if _, err := o.Apply(t.Context(), append(newSet(), file("large", text), file("other", "more"))); err != nil {
				t.Fatal(err)
			}
			fillUp(t, disk+"/full")
			if changes, err := o.Rollback(t.Context()); err != nil || len(changes) == 0 {
				t.Errorf("files there: %v: %v, %v", files, changes, err)
			}
			if err := os.Remove(disk + "/full"); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(before, set(t, out)); d != "" {
				t.Errorf("files there: %v: after Rollback (-want +got):\n%s", files, d)
			}
			if exists(filepath.Join(o.State, keptDir)) {
				t.Error("something is still kept")
			}
		}
	}
}

// What cannot be kept is not replaced, and of what was copied nothing is left
// but what was kept before.
func TestKeptDoesNotFit(t *testing.T) {
	out := oldSet(t)
	write(t, out, map[string]string{"large": strings.Repeat("old ", 50<<10)})
	before := set(t, out)
	o := Output{Dir: out, State: small(t, "128"), Keep: true}
	names := func() string {
		list, _ := filepath.Glob(o.State + "/kept/*")
		for i, path := range list {
			list[i] = filepath.Base(path)
		}
		return strings.Join(list, " ")
	}
	both := []File{file("etc/a", "new a"), file("large", "new")}
	for _, kept := range []string{"", "0 index room"} {
		if _, err := o.Apply(t.Context(), both); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("%v; want that there is no space", err)
		}
		if got := names(); got != kept {
			t.Errorf("kept are %q; want %q", got, kept)
		}
		if _, err := o.Apply(t.Context(), []File{file("z", "new z")}); err != nil {
			t.Error(err)
		}
	}
	fillUp(t, o.State+"/full")
	if _, err := o.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(before, set(t, out)); d != "" {
		t.Errorf("after Rollback (-want +got):\n%s", d)
	}
}

// Room for the files is no condition, only room for what the state needs.
func TestNoRoomForFiles(t *testing.T) {
	out := oldSet(t)
	write(t, out, map[string]string{"large": strings.Repeat("old ", 8<<10)})
	before := set(t, out)
	o := Output{Dir: out, State: small(t, "76"), Keep: true}
	if _, err := o.Apply(t.Context(), []File{file("large", "new")}); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(o.State + "/kept/room"); err != nil || fi.Size() != 3*4096 {
		t.Errorf("the room: %v, %v; want three blocks", fi, err)
	}
	fillUp(t, o.State+"/full")
	if _, err := o.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(before, set(t, out)); d != "" {
		t.Errorf("after Rollback (-want +got):\n%s", d)
	}
}
