package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/store"
	"goldsmith/pipeline/engine"
	"goldsmith/testbed/libvirt"
)

func TestMain(m *testing.M) {
	libvirt.Init()
	if told := os.Getenv(asWorker); told != "" {
		if err := workAsTold(told); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testscript.Main(m, map[string]func(){"imgpipe": main})
}

func TestScript(t *testing.T) {
	demo, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:  "testdata/script",
		Cmds: scriptCommands,
		Setup: func(e *testscript.Env) error {
			e.Setenv("DEMO", demo+"/../../ci/demo/pipeline.yaml")
			scripts, err := filepath.Glob(filepath.Join(e.WorkDir, "*.sh"))
			for _, s := range scripts {
				err = errors.Join(err, os.Chmod(s, 0o755))
			}
			return err
		},
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

// waitPort waits until a server listens on loopback.
func waitPort(ts *testscript.TestScript, _ bool, args []string) {
	for range 600 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+args[0]); err == nil {
			_ = c.Close()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("nobody listens on port %s", args[0])
}

// waitRun waits until a run of a store has ended.
func waitRun(ts *testscript.TestScript, _ bool, args []string) {
	db, err := store.Open(context.Background(), ts.MkAbs(filepath.Join(args[0], "imgpipe.db")))
	ts.Check(err)
	defer db.Close()
	id, err := engine.Number(args[1])
	ts.Check(err)
	for range 600 {
		r, err := engine.New(db).Run(context.Background(), id)
		ts.Check(err)
		if r.Status.Ended() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("run %d does not end", id)
}
