package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A file that has its size and not all of its content is not taken.
func TestWholeRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := wholeRoot(file); err != nil {
		t.Error(err)
	}
	if err := os.Truncate(file, 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := wholeRoot(file); err == nil || !strings.Contains(err.Error(), "1 MiB of 3 are there") {
		t.Errorf("cut off: %v", err)
	}
	if err := wholeRoot(file + "x"); err == nil {
		t.Error("what is not there is whole")
	}
}
