package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Bond is how a program that is run hangs on this process.
type Bond int

const (
	// Group gives it a process group, of which nothing outlives the run: what
	// it leaves running there is killed.
	Group Bond = iota
	// Leave gives it a process group, and lets live what it leaves running,
	// such as a service. What that prints later goes to this process's
	// standard output and error, even when this process has ended.
	Leave
	// Share makes it as a shell's: in our process group, alive when we die,
	// and writing to our own files where Stdout and Log are files. Of what it
	// prints nothing is kept for the error. When the context ends, it and all
	// that it started is killed at once.
	Share
)

// settle is how long after a program's end output is awaited of what it left
// running, before a relay takes over.
const settle = 50 * time.Millisecond

// pipes brings the output of a program, and of what it leaves running, to
// where it is to go.
type pipes struct {
	reads  []*os.File
	writes []io.Writer // where what is read goes, for each of reads
	finals []*os.File  // where a relay writes
	copies sync.WaitGroup
}

// connect makes the pipe for one stream.
func (p *pipes) connect(to io.Writer, final *os.File) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.reads, p.writes, p.finals = append(p.reads, r), append(p.writes, to), append(p.finals, final)
	p.copies.Go(func() { _, _ = io.Copy(to, r) }) // to is a sink: it never fails
	return w, nil
}

// end is called when the program has ended. A stream that something still
// holds open is left to a relay.
func (p *pipes) end() error {
	done := make(chan struct{})
	go func() { p.copies.Wait(); close(done) }()
	var open bool
	select {
	case <-done:
	case <-time.After(settle):
		open = true
	}
	var errs []error
	for _, r := range p.reads {
		errs = append(errs, r.SetReadDeadline(time.Unix(1, 0)))
	}
	<-done
	for i, r := range p.reads {
		if open {
			errs = append(errs, drain(r, p.writes[i]), relay(r, p.finals[i]))
		}
		errs = append(errs, r.Close())
	}
	return errors.Join(errs...)
}

// drain copies what is in a pipe now: on a busy machine, what the program said
// last may not have been read yet.
func drain(r *os.File, to io.Writer) error {
	raw, err := r.SyscallConn()
	if err == nil {
		err = r.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return err
	}
	// A pipe holds 64 KiB; what comes after that is of what still runs.
	buf := make([]byte, 64<<10)
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		n, _ = syscall.Read(int(fd), buf) // does not wait: the runtime's pipes never do
		return true
	})
	_, _ = to.Write(buf[:max(n, 0)])
	return err
}

// relay leaves a process behind that copies what comes through a pipe, and
// goes on reading when nobody takes it: a service does not end because it
// cannot write to its log. A pipe that nobody holds ends it at once.
func relay(from, to *os.File) error {
	cmd := exec.Command("sh", "-c", "cat || exec cat >/dev/null")
	cmd.Stdin, cmd.Stdout = from, to
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("output of what still runs: %w", err)
	}
	return cmd.Process.Release()
}

// runLeaving is cmd.Run for Leave.
func runLeaving(ctx context.Context, cmd *exec.Cmd) error {
	var p pipes
	defer func() {
		for _, r := range p.reads {
			_ = r.Close()
		}
	}()
	log, err := p.connect(cmd.Stderr, os.Stderr)
	if err != nil {
		return err
	}
	defer log.Close()
	out := log
	if cmd.Stdout != cmd.Stderr {
		if out, err = p.connect(cmd.Stdout, os.Stdout); err != nil {
			return err
		}
		defer out.Close()
	}
	cmd.Stdout, cmd.Stderr = out, log
	if err := cmd.Start(); err != nil {
		return err
	}
	_, _ = log.Close(), out.Close()
	err = cmd.Wait()
	if ctx.Err() != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return errors.Join(err, p.end())
}

// KillTree kills a process and all that descend from it, in whatever process
// groups they are.
func KillTree(pid int) {
	// A process that is stopped starts no more: when two looks find the same
	// ones, that is all of them.
	tree := descendants(pid)
	for {
		for _, p := range tree {
			_ = syscall.Kill(p, syscall.SIGSTOP)
		}
		again := descendants(pid)
		if !slices.ContainsFunc(again, func(p int) bool { return !slices.Contains(tree, p) }) {
			break
		}
		tree = again
	}
	for _, p := range tree {
		_ = syscall.Kill(p, syscall.SIGKILL)
	}
}

// descendants lists a process and all that descend from it, parents first.
func descendants(pid int) []int {
	children := map[int][]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		// PID (NAME) STATE PPID ..., where the name may hold anything: proc_pid_stat(5).
		_, rest, _ := strings.Cut(string(b[max(0, strings.LastIndexByte(string(b), ')')):]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		own, err2 := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && err2 == nil {
			children[parent] = append(children[parent], own)
		}
	}
	tree := []int{pid}
	for i := 0; i < len(tree); i++ {
		for _, c := range children[tree[i]] {
			if !slices.Contains(tree, c) {
				tree = append(tree, c)
			}
		}
	}
	return tree
}

// runShared is cmd.Run for Share.
func (x Exec) runShared(ctx context.Context, cmd *exec.Cmd) error {
	cmd.Stdout, cmd.Stderr = x.Log, x.Log
	if x.Stdout != nil {
		cmd.Stdout = x.Stdout
	}
	cmd.SysProcAttr = x.Sys
	cmd.Cancel = func() error {
		KillTree(cmd.Process.Pid)
		return nil
	}
	return x.outcome(ctx, cmd.Run(), nil, &lineTail{max: tailLines})
}
