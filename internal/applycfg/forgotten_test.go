package applycfg

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// told is an output directory that tells what it warns of.
func told(dir string) (Output, *[]string) {
	var warnings []string
	return Output{Dir: dir + "/out", State: dir + "/state", Create: true,
		Warn: func(err error) { warnings = append(warnings, err.Error()) }}, &warnings
}

func renderedFrom(t *testing.T, dir, metadata string) []File {
	t.Helper()
	files, err := Templates{Dir: dir + "/t"}.Render(t.Context(), doc(t, metadata))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// A pipe in place of any file of the state is not waited for.
func TestPipesInState(t *testing.T) {
	for _, name := range []string{recordName, recordNew, prepareName, commitName, keptIndex, keptRecord, keptDir + "/0"} {
		t.Run(strings.ReplaceAll(name, "/", "_"), func(t *testing.T) {
			dir := write(t, t.TempDir(), map[string]string{"t/f": "{{a}}\n"})
			out, _ := told(dir)
			for _, doc := range []string{`{"a": 1}`, `{"a": 2}`} {
				if _, err := out.Apply(t.Context(), renderedFrom(t, dir, doc)); err != nil {
					t.Fatal(err)
				}
				out.Keep = true
			}
			path := filepath.Join(out.State, name)
			if err := errors.Join(os.RemoveAll(path), unix.Mkfifo(path, 0o600)); err != nil {
				t.Fatal(err)
			}
			plan := out
			plan.DryRun, plan.Diff = true, true
			_, err := plan.Apply(t.Context(), renderedFrom(t, dir, `{"a": 3}`))
			t.Log(err)
			_, err = plan.Rollback(t.Context())
			t.Log(err)
			_, err = out.Apply(t.Context(), renderedFrom(t, dir, `{"a": 4, "token": "new-one"}`))
			t.Log(err)
			_, err = out.Rollback(t.Context())
			t.Log(err)
		})
	}
}

// A record that cannot be written is said in one line, fails nothing, and is
// not left half-written.
func TestRecordNotWritten(t *testing.T) {
	apply := func(t *testing.T, out Output, dir, metadata string, want Action) {
		t.Helper()
		changes, err := out.Apply(t.Context(), renderedFrom(t, dir, metadata))
		if err != nil || len(changes) != 1 || changes[0].Action != want {
			t.Errorf("Apply: %v, %v; want %s", changes, err, want)
		}
	}
	one := func(t *testing.T, warnings []string, want string) {
		t.Helper()
		if len(warnings) != 1 || strings.Contains(warnings[0], "\n") || !strings.Contains(warnings[0], want) {
			t.Errorf("%d warnings %q; want one line with %q", len(warnings), warnings, want)
		}
	}
	mount := func(t *testing.T, dir, options string) {
		t.Helper()
		if os.Geteuid() != 0 {
			t.Skip("needs to be root, to mount")
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
			t.Skip("cannot mount: ", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	}
	start := func(t *testing.T) (dir string, out Output, warnings *[]string) {
		dir = write(t, t.TempDir(), map[string]string{"t/f": "{{a}}\n"})
		if err := os.Mkdir(dir+"/state", 0o700); err != nil {
			t.Fatal(err)
		}
		out, warnings = told(dir)
		return dir, out, warnings
	}
	t.Run("read-only", func(t *testing.T) {
		dir, out, warnings := start(t)
		mount(t, out.State, "mode=700")
		apply(t, out, dir, `{"a": 1}`, Created)
		if err := unix.Mount("", out.State, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		apply(t, out, dir, `{"a": 1, "token": "another"}`, Unchanged)
		one(t, *warnings, "read-only file system")
	})
	t.Run("full", func(t *testing.T) {
		dir, out, warnings := start(t)
		mount(t, out.State, "mode=700,size=64k")
		apply(t, out, dir, `{"a": 1}`, Created)
		_ = os.WriteFile(out.State+"/fill", make([]byte, 1<<20), 0o600)
		apply(t, out, dir, `{"a": 1, "token": "another"}`, Unchanged)
		one(t, *warnings, "no space left")
		if exists(out.State + "/" + recordNew) {
			t.Error("half a record is left")
		}
	})
	for _, name := range []string{recordName, recordNew} {
		t.Run("directory "+name, func(t *testing.T) {
			dir, out, warnings := start(t)
			write(t, out.State, map[string]string{name + "/x/y": ""})
			apply(t, out, dir, `{"a": 1}`, Created)
			one(t, *warnings, name)
			*warnings = nil
			apply(t, out, dir, `{"a": 2}`, Updated)
			one(t, *warnings, name)
		})
	}
}
