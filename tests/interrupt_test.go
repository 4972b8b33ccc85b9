package tests

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"goldsmith/pipeline"
)

// Whenever a run is interrupted or killed, nothing of it keeps running, no
// tag moves, and the next run cleans up and tells what became of it.
func TestInterruptAtAnyMoment(t *testing.T) {
	need(t, true)
	rounds := 2
	if *system {
		rounds = 4
	}
	interrupts(t, rounds)
}

func TestTortureInterrupts(t *testing.T) {
	interrupts(t, rounds(t))
}

func interrupts(t *testing.T, rounds int) {
	// The same moments for the same seed: between the start and what is the
	// middle of a boot on a slow machine.
	rnd := rand.New(rand.NewPCG(*seed, 0))
	longest := 40 * time.Second
	dir := t.TempDir()
	for i := 0; i < rounds; {
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGKILL}[i%2]
		moment := time.Second + time.Duration(rnd.Int64N(int64(longest)))
		if !interrupt(t, dir, i, signal, moment) {
			longest = moment / 2 // this machine is quicker than that
			dir = t.TempDir()
			continue
		}
		i++
	}
	afterwards(t, dir)
}

// interrupt starts a run, sends it the signal after a while, and checks that
// nothing is left. It is false when the run had ended by then.
func interrupt(t *testing.T, dir string, round int, signal syscall.Signal, moment time.Duration) bool {
	t.Helper()
	mark := fmt.Sprintf("GOLDSMITH_TEST_MARK=%d-%d", os.Getpid(), round)
	cmd, out := program{[]string{"imgpipe", "run", "--dir", dir, "../ci/demo/pipeline.yaml"}, []string{mark}}.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
		return false
	case <-time.After(moment):
	}
	if len(leftovers(t, mark, dir)) == 0 {
		t.Fatal("a running pipeline has no processes: this test sees nothing")
	}
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s after %s: still there a minute later\n%s", signal, moment, out)
	}
	status := cmd.ProcessState.ExitCode()
	t.Logf("round %d: %s after %.1f s, gone after %.1f s, status %d",
		round, signal, moment.Seconds(), time.Since(asked).Seconds(), status)
	if signal == syscall.SIGINT && status != 130 {
		t.Errorf("%s after %s: status %d; want 130\n%s", signal, moment, status, out)
	}
	checkGone(t, mark, dir)
	if got := tags(t, dir); len(got) > 0 {
		t.Errorf("tags moved: %v", got)
	}
	return true
}

// afterwards checks what the next run makes of those that were stopped.
func afterwards(t *testing.T, dir string) {
	t.Helper()
	// The kernel closes a killed process's files a moment after its memory is
	// gone; until then its locks say that it lives.
	time.Sleep(time.Second)
	// A run that fails early is enough to see what became of the others.
	program{[]string{"imgpipe", "run", "--dir", dir, "testdata/unproven.yaml"}, nil}.run(t)
	runs := records(t, dir)
	for _, r := range runs[:len(runs)-1] {
		// What was killed can be gone on with.
		if r.Status != pipeline.Cancelled && r.Status != pipeline.Running {
			t.Errorf("run %s is %s; want cancelled or running", r.ID, r.Status)
		}
	}
	for _, pattern := range []string{"build-*", "smoke-*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
			t.Errorf("left in the store: %v", left)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "goldsmith", "work", "build-*")); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

// leftovers lists what a run could leave on this machine: processes that
// carry its mark in their environment or use its directory, and mounts of it.
// Other runs on the same machine do not count.
func leftovers(t *testing.T, mark, dir string) []string {
	t.Helper()
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, err1 := os.ReadFile(filepath.Join(p, "cmdline"))
		environ, err2 := os.ReadFile(filepath.Join(p, "environ"))
		if err1 != nil || err2 != nil {
			continue // it ended meanwhile
		}
		if bytes.Contains(environ, []byte(mark)) || bytes.Contains(cmdline, []byte(dir)) {
			found = append(found, filepath.Base(p)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, dir) {
			found = append(found, l)
		}
	}
	return found
}

// checkGone waits a moment for what a killed run had started to end.
func checkGone(t *testing.T, mark, dir string) {
	t.Helper()
	var left []string
	for range 50 {
		if left = leftovers(t, mark, dir); len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}
