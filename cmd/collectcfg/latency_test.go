package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestLatency measures how long it takes from a changed file to what the
// command makes of it, and what the program costs when nothing changes. It
// only logs: machines differ (docs/performance.md has figures).
func TestLatency(t *testing.T) {
	dir := t.TempDir()
	local, out := filepath.Join(dir, "local"), filepath.Join(dir, "out")
	if err := os.Mkdir(local, 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "new"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(local, "a")); err != nil {
			t.Fatal(err)
		}
	}
	await := func(content string) {
		t.Helper()
		for range 20_000 {
			if b, _ := os.ReadFile(out); string(b) == content {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Fatalf("%q did not come", content)
	}
	put("0")
	t.Setenv(backupVariable, filepath.Join(dir, "backup"))
	cmd := exec.Command("collectcfg", "--cachedir", filepath.Join(dir, "cache"), "--local-path", local,
		"-c", fmt.Sprintf("cp $OS_CONFIG_FILES %s.new && mv %s.new %s", out, out, out), "local")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	await("0")
	var took []time.Duration
	for i := range 20 {
		began := time.Now()
		put(fmt.Sprint(i + 1))
		await(fmt.Sprint(i + 1))
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("from a changed file to the command's: median %s, longest %s", took[len(took)/2], took[len(took)-1])
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmHWM") || strings.HasPrefix(line, "VmRSS") {
			t.Log(strings.TrimSpace(line))
		}
	}
}
