package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/testbed/libvirt"
)

func TestMain(m *testing.M) {
	libvirt.Init()
	testscript.Main(m, map[string]func(){"imgpipe": main})
}

func TestScript(t *testing.T) {
	demo, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("DEMO", demo+"/../../ci/demo/pipeline.yaml")
			scripts, err := filepath.Glob(filepath.Join(e.WorkDir, "*.sh"))
			for _, s := range scripts {
				err = errors.Join(err, os.Chmod(s, 0o755))
			}
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"waitfor": waitFor},
	})
}

// waitFor waits until a file is there.
func waitFor(ts *testscript.TestScript, _ bool, args []string) {
	for range 600 {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%s did not come", args[0])
}
