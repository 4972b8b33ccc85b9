package tests

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// need skips the test unless its tier was asked for.
func need(t *testing.T, inCore bool) {
	t.Helper()
	if !*system && (!*core || !inCore) {
		t.Skip("system tier: make system-test")
	}
	ready(t)
}

// rounds skips a test outside of the torture tier, and is how many rounds that
// has.
func rounds(t *testing.T) int {
	t.Helper()
	if *torture == 0 {
		t.Skip("torture tier: make torture N=…")
	}
	ready(t)
	return *torture
}

// built is the path of a program that "make build" made; "" is where they are.
func built(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../bin", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ready checks what every tier but the fast one needs.
func ready(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this tier needs root")
	}
	if _, err := os.Stat("../bin/imgpipe"); err != nil {
		t.Fatal("../bin/imgpipe is not there: make build")
	}
}

// program is one run of a built program.
type program struct {
	args []string
	env  []string
}

// run returns the exit status and what was printed.
func (p program) run(t *testing.T) (int, string) {
	t.Helper()
	cmd, out := p.command(t)
	err := cmd.Run()
	t.Logf("%s\n%s", strings.Join(p.args, " "), out)
	ee, exited := errors.AsType[*exec.ExitError](err)
	if err != nil && !exited {
		t.Fatal(err)
	}
	if exited {
		return ee.ExitCode(), out.String()
	}
	return 0, out.String()
}

func (p program) command(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(built(t, p.args[0]), p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func elements(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/elements")
	if err != nil {
		t.Fatal(err)
	}
	return "ELEMENTS_PATH=" + dir
}
