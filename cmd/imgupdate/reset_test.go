package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// Without --yes nothing is asked for, and what would be lost is said.
func TestResetAsks(t *testing.T) {
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot.json")
	for _, err := range []error{
		os.MkdirAll(filepath.Join(dir, "state/fs/srv"),
			0o755), os.Mkdir(filepath.Join(dir, "state/fs/.new-more"), 0o755),
		os.WriteFile(boot, []byte(`{"root_hash":"aa","slot":"a","disk":"/nowhere"}`), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var out, said bytes.Buffer
	args := []string{"reset", "--boot", boot, "--state", filepath.Join(dir, "state/boot")}
	status := program().Run(t.Context(), args, command.IO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &said})
	if status != command.StatusUsage || !strings.Contains(said.String(), "what is in /srv\n") ||
		strings.Contains(said.String(), "new-more") {
		t.Errorf("status %d, said %q", status, said.String())
	}
	if _, err := os.Stat(filepath.Join(dir, "state/boot")); err == nil {
		t.Error("something was done")
	}
}
