package refreshcfg

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a migration's hook started goes on when refreshcfg is killed: the next
// run does not start the hook beside it.
func TestMigrationStillRuns(t *testing.T) {
	m := newMachine(t)
	dir := t.TempDir()
	m.c = tortured(dir, "2")
	m.c.Say = func(string, ...any) {}
	const text = "#!/bin/bash\n## goldsmith: {\"once\": \"machine\", \"reversible\": true}\ncd DIR\n" +
		"[ -z $GOLDSMITH_RESUMED ] || { echo resumed; exit 0; }\n" +
		"sh -c 'echo $$ >pid.new; mv pid.new pid; while [ ! -e finish ]; do sleep 0.05; done'\n"
	writeHookText(t, dir+"/image2/migration.d/1-m", strings.ReplaceAll(text, "DIR", dir))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "REFRESHCFG_TORTURE="+dir, "REFRESHCFG_IMAGE=2")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for range 500 {
		if b, err := os.ReadFile(filepath.Join(dir, "pid")); err == nil {
			pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if pid == 0 {
		t.Fatal("the hook did not start")
	}
	t.Cleanup(func() { _ = syscall.Kill(pid, syscall.SIGKILL) })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	defer func(old time.Duration) { patience = old }(patience)
	patience = 100 * time.Millisecond
	const want = "migration: 1-m: an earlier start of it still runs: "
	out, err := run(t, m.c)
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), strconv.Itoa(pid)+" (sh)") || out != "" {
		t.Fatalf("ran %q, %v; want %s%d (sh)", out, err, want, pid)
	}
	patience = time.Minute
	if err := os.WriteFile(filepath.Join(dir, "finish"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m.runs("resumed")
}
