package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// await waits until f is true.
func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 500 {
		if f() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s: not within ten seconds", what)
}

// alive tells whether the process whose number a file holds runs.
func alive(file string) bool {
	b, _ := os.ReadFile(file)
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(b)) + "/stat")
	return err == nil && len(b) > 0 && !strings.Contains(string(stat), ") Z ")
}

func number(t *testing.T, file string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A service that a program starts outlives it, and goes on printing.
func TestExecLeave(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	const script = `cd "$1"; echo early; (while [ ! -e go ]; do sleep 0.02; done; echo late; echo late >&2; echo yes >wrote; exec sleep 60) & echo $! >pid; exit 3`
	var log, out strings.Builder
	x := Exec{Args: []string{"sh", "-c", script, "sh", dir}, Log: &log, Stdout: &out, Bond: Leave}
	err := x.Run(t.Context())
	t.Cleanup(func() { _ = syscall.Kill(number(t, file("pid")), syscall.SIGKILL) })
	if ee, ok := errors.AsType[*ExitError](err); !ok || ee.Status != 3 {
		t.Errorf("Run = %v; want exit status 3", err)
	}
	if out.String() != "early\n" || log.Len() != 0 {
		t.Errorf("stdout %q, log %q", out.String(), log.String())
	}
	if err := os.WriteFile(file("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "the service's output", func() bool { _, err := os.Stat(file("wrote")); return err == nil })
	if !alive(file("pid")) {
		t.Error("the service has ended")
	}
}

func TestDrain(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, want := range []string{"left", ""} {
		if _, err := w.WriteString(want); err != nil {
			t.Fatal(err)
		}
		if err := r.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		if err := drain(r, &got); err != nil || got.String() != want {
			t.Errorf("drain = %q, %v; want %q", got.String(), err, want)
		}
	}
}

// What belongs to a program that is cancelled ends with it.
func TestExecLeaveCancel(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	pid := filepath.Join(dir, "pid")
	go func() {
		defer cancel()
		for range 500 {
			if alive(pid) {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	err := Exec{Args: []string{"sh", "-c", `sleep 45678 & echo $! >"$1"; wait`, "sh", pid}, Bond: Leave}.Run(ctx)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want context.Canceled", err)
	}
	await(t, "end of the child", func() bool { return !alive(pid) })
}

// Share hands over our files themselves, kills nothing that is left, and when
// cancelled everything, also in sessions of its own.
func TestExecShare(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	script := `cd "$1"; readlink /proc/self/fd/1; ps -o pgid= -p $$ | tr -d ' '; echo three >&3; sleep 45678 & echo $! >pid`
	x := Exec{Args: []string{"sh", "-c", script, "sh", dir}, Stdout: f, Log: f, Bond: Share, Files: []*os.File{w}}
	if err := x.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if !alive(dir + "/pid") {
		t.Error("what the program left has ended")
	}
	_ = syscall.Kill(number(t, dir+"/pid"), syscall.SIGKILL)
	b, _ := os.ReadFile(f.Name())
	if want := f.Name() + "\n" + strconv.Itoa(syscall.Getpgrp()) + "\n"; string(b) != want {
		t.Errorf("printed %q; want %q", b, want)
	}
	three := make([]byte, 10)
	if n, _ := r.Read(three); string(three[:n]) != "three\n" {
		t.Errorf("file 3 got %q", three[:n])
	}

	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for range 500 {
			if alive(dir + "/deep") {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}()
	x.Args = []string{"sh", "-c", `trap "" TERM; setsid sh -c 'trap "" TERM; sleep 45678 & echo $! >"$1/deep"; wait' sh "$1" & wait`, "sh", dir}
	x.Files = nil
	if err := x.Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v; want context.Canceled", err)
	}
	await(t, "end of the grandchild", func() bool { return !alive(dir + "/deep") })
}
