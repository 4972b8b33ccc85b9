package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	original := func() { os.Exit(run("os-apply-config", os.Args[1:], os.Getenv("OS_APPLY_CONFIG_LOG"))) }
	testscript.Main(m, map[string]func(){"applycfg": main, "os-apply-config": original})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}
