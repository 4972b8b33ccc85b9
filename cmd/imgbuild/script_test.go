package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/rootfs"
	"goldsmith/internal/testenv"
	"goldsmith/internal/vm"
)

func TestMain(m *testing.M) {
	vm.Init()
	rootfs.Init()
	programs := map[string]func(){"imgbuild": func() { os.Exit(run()) }}
	for name := range originals {
		programs[name] = programs["imgbuild"]
	}
	testscript.Main(m, programs)
}

func TestScript(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "fsck.erofs", "unshare", "newuidmap", "setcap", "sudo")
	testenv.NeedFile(t, "/bin/busybox")
	testenv.NeedFile(t, "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("ELEMENTS_PATH", e.WorkDir+"/elements:"+mustAbs(t, "../../tests/testdata/dib"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			e.Setenv("DATA", mustAbs(t, "testdata"))
			return nil
		},
	})
}

func mustAbs(t *testing.T, p string) string {
	t.Helper()
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return wd + "/" + p
}
