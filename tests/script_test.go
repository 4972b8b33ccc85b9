package tests

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/testenv"
)

// Scripts of commands that need our own elements and programs, as they are
// built.
func TestScripts(t *testing.T) {
	need(t, true)
	testenv.Need(t, "git", "unshare")
	bin := built(t, "")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("ELEMENTS_PATH", e.WorkDir+"/elements:"+filepath.Join(bin, "../tests/testdata/dib"))
			e.Setenv("XDG_CACHE_HOME", e.WorkDir+"/cache")
			return nil
		},
	})
}
