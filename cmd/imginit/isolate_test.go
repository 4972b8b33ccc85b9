package main

import (
	"fmt"
	"os"
	"testing"

	"goldsmith/internal/rootfs"
)

// These tests mount. Another process that is started meanwhile with mounts of
// its own would hold a copy of ours, and a file system that is still mounted
// somewhere is not read again.
func TestMain(m *testing.M) {
	rootfs.Init()
	if os.Geteuid() == 0 {
		if err := rootfs.Isolate(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}
