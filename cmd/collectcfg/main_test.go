package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(kept{m}, map[string]func(){"collectcfg": main, "os-collect-config": main})
}

// outside is where the cache is copied unless told otherwise.
const outside = "/var/run/os-collect-config"

// backupVariable sets another place.
const backupVariable = "OS_DEFAULT__BACKUP_CACHEDIR"

// kept are tests that leave nothing there.
type kept struct{ *testing.M }

func (k kept) Run() int {
	_, before := os.Lstat(outside)
	status := k.M.Run()
	if _, err := os.Lstat(outside); err == nil && errors.Is(before, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "a test made %s: name another --backup-cachedir\n", outside)
		return 1
	}
	return status
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", Setup: func(e *testscript.Env) error {
		e.Setenv(backupVariable, "backup")
		return nil
	}})
}
