// Package testenv says what a test needs from the machine it runs on. Without
// it, a test is skipped with the reason; with CI=true in the environment a
// missing thing is a failure, so that continuous integration cannot grow
// green by losing tools. [Proof] takes what comparing ours with an original
// came to, for the table in docs/compatibility.md.
package testenv

import (
	"os"
	"os/exec"
	"testing"
)

// Need requires programs in PATH.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			Missing(t, p+" is not installed: run ci/install-deps.sh")
		}
	}
}

// NeedFile requires a file of the machine.
func NeedFile(t testing.TB, path string) {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, path+" is not there: run ci/install-deps.sh")
	}
}

// NeedRoot requires the superuser.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Missing(t, "not root")
	}
}

// Missing skips the test for what is missing, or fails it under CI=true.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}
