package main

import (
	"os"
	"testing"

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
			return nil
		},
	})
}
