package refreshcfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
)

// base makes a tree of hooks; each prints its own name.
func base(t *testing.T, hooks map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range hooks {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/bash\necho ${0##*/}\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func run(t *testing.T, c Config) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Log, c.Lock = &out, io.Discard, filepath.Join(t.TempDir(), "lock")
	err = Run(t.Context(), c)
	return strings.Join(strings.Fields(out.String()), " "), err
}

func TestPhasesInOrder(t *testing.T) {
	got, err := run(t, Config{Base: base(t, map[string]string{
		"migration.d/1-m": "", "post-configure.d/1-p": "", "configure.d/2-c": "", "configure.d/10-c": "",
		"pre-configure.d/9-x": "", "error.d/1-e": "", "other.d/1-o": "",
	})})
	if want := "9-x 2-c 10-c 1-p 1-m"; err != nil || got != want {
		t.Errorf("ran %q, %v; want %q", got, err, want)
	}
}

func TestFailureRunsErrorHooks(t *testing.T) {
	got, err := run(t, Config{Base: base(t, map[string]string{
		"pre-configure.d/1-a": "", "configure.d/2-bad": "echo oh >&2; echo 'hint: mend it' >&2; exit 3\n",
		"post-configure.d/1-never": "", "error.d/1-e": "", "error.d/2-e": "exit 1\n",
	})})
	if want := "1-a 2-bad 1-e 2-e"; got != want {
		t.Errorf("ran %q; want %q", got, want)
	}
	f, ok := errors.AsType[*Failure](err)
	if !ok || f.Reason() != "configure/2-bad: exit status 3: oh" || command.Status(err) != 1 {
		t.Errorf("Run = %v; want the failure of configure/2-bad", err)
	}
}

// The reason is the last line, whichever stream it was printed to.
func TestReason(t *testing.T) {
	for hook, want := range map[string]string{
		"echo 'redis does not answer'; exit 1":             "exit status 1: redis does not answer",
		"echo why >&2; sleep 1; echo last; exit 1":         "exit status 1: last",
		"echo why; printf last >&2; exit 1":                "exit status 1: last",
		`printf 'a\342\200\256b\342\200\213c'; exit 1`:     "exit status 1: a b c",
		`printf '\a\033[31mred\tx\033[0m\302\233'; exit 1`: "exit status 1:   [31mred x [0m ",
	} {
		_, err := run(t, Config{Base: base(t, map[string]string{"configure.d/1-x": hook + "\n"})})
		if f, ok := errors.AsType[*Failure](err); !ok || f.Reason() != "configure/1-x: "+want {
			t.Errorf("%s: %v; want %s", hook, err, want)
		}
	}
	f := Failure{"configure", errors.New("one\ntwo")}
	if got := f.Reason(); got != "configure: one two" {
		t.Errorf("Reason = %q", got)
	}
}

// After an interrupt nothing runs, is given back or called good, also when the
// hook dies of it before refreshcfg hears of it.
func TestInterrupt(t *testing.T) {
	for name, hook := range map[string]string{
		"waits": "sleep 60\n", "dies first": "kill -TERM $$\n", "fails first": "exit 1\n", "does not care": "trap : TERM\nsleep 1 & wait; wait; exit 0\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			var out bytes.Buffer
			called := false
			err := Run(ctx, Config{
				Base: base(t, map[string]string{"configure.d/1-hook": "touch " + dir + "/runs\n" + hook, "post-configure.d/1-p": "", "error.d/1-e": ""}),
				Lock: dir + "/lock", State: dir + "/state", Stdout: &out,
				Rollback: func(context.Context) (int, error) { called = true; return 0, nil },
				Good:     func(context.Context) error { called = true; return nil },
				Say: func(string, ...any) {
					go func() {
						for {
							if _, err := os.Stat(dir + "/runs"); err == nil {
								cancel()
								return
							}
							time.Sleep(time.Millisecond)
						}
					}()
				},
			})
			if got := strings.Join(strings.Fields(out.String()), " "); got != "1-hook" || err == nil || called {
				t.Errorf("ran %q, %v, rolled back or called good: %v", got, err, called)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	got, err := run(t, Config{
		Base:    base(t, map[string]string{"configure.d/1-slow": "sleep 60\n", "error.d/1-e": ""}),
		Timeout: 300 * time.Millisecond,
	})
	f, ok := errors.AsType[*Failure](err)
	if !ok || !strings.HasSuffix(f.Reason(), "configure.d/1-slow: still running after 300ms: ended") || got != "1-slow 1-e" {
		t.Errorf("ran %q, %v; want the timeout, and error.d", got, err)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "lock")
	held, err := takeLock(path)
	if err != nil {
		t.Fatal(err)
	}
	err = Run(t.Context(), Config{Base: dir, Lock: path})
	if command.Status(err) != command.StatusBusy || !strings.Contains(err.Error(), fmt.Sprintf("process %d holds the lock", os.Getpid())) {
		t.Errorf("Run = %v, status %d; want busy", err, command.Status(err))
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Config{Base: dir, Lock: path}); err != nil {
		t.Errorf("Run after the lock was released: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 0 {
		t.Errorf("the lock file holds %q, %v after the run", b, err)
	}
}
