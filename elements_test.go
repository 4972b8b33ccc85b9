package goldsmith_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/element"
)

// hookDirs are directories of executables that run in the order of their
// names.
var hookDirs = []string{
	"root.d", "extra-data.d", "pre-install.d", "install.d", "post-install.d", "post-root.d", "block-device.d", "pre-finalise.d", "finalise.d",
	"cleanup.d", "smoke.d",
	"pre-configure.d", "configure.d", "post-configure.d", "migration.d", "error.d",
}

var hookName = regexp.MustCompile(`^[0-9][0-9]-[a-z0-9-]+$`)

// Every element has a README, hooks that will be run, and no file that
// another element has too.
func TestElements(t *testing.T) {
	dirs, err := filepath.Glob("elements/*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no elements: %v", err)
	}
	var all []*element.Element
	path := element.Path{"elements"}
	for _, dir := range dirs {
		e, err := path.Find(filepath.Base(dir))
		if err != nil || e == nil {
			t.Errorf("%s: %v", dir, err)
			continue
		}
		all = append(all, e)
		if _, err := os.Stat(filepath.Join(dir, "README.md")); err != nil {
			t.Errorf("%s has no README.md", dir)
		}
		for _, d := range e.Deps {
			if found, _ := path.Find(d); found == nil {
				t.Errorf("%s depends on %s, which is not there", dir, d)
			}
		}
		checkHooks(t, dir)
	}
	if err := element.MergeHooks(all, t.TempDir()); err != nil {
		t.Errorf("elements do not go together: %v", err)
	}
}

func checkHooks(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := os.Stat(p)
		if err != nil {
			return err
		}
		parent := filepath.Base(filepath.Dir(p))
		isHook := slices.Contains(hookDirs, parent)
		if isHook && !hookName.MatchString(d.Name()) {
			t.Errorf("%s: a hook is named NN-name", p)
		}
		if isHook && fi.Mode()&0o111 == 0 {
			t.Errorf("%s: a hook must be executable", p)
		}
		if parent == "environment.d" && fi.Mode()&0o111 != 0 {
			t.Errorf("%s: a file of environment.d is sourced, not executed", p)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if isHook && !strings.HasPrefix(string(b), "#!/bin/bash\n") {
			t.Errorf("%s: a hook starts with #!/bin/bash", p)
		}
		if isHook && !strings.Contains(string(b), "set -eu -o pipefail") && !strings.Contains(string(b), "exec ") {
			t.Errorf("%s: a hook sets -eu -o pipefail", p)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
