package testbedtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/testbed"
)

// testAddress: a machine's address is known, stays, and is its own. Whether it
// answers there is the guest's.
func (d Driver) testAddress(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "hello\r\n"}))
	a, ok := m.(testbed.Addressed)
	if !ok {
		t.Skip("the driver knows no addresses")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before, err := a.Address(ctx)
	ask(t, "Address", err)
	must(t, "PowerOn", m.PowerOn(ctx))
	after, err := a.Address(ctx)
	must(t, "Address", err)
	if !before.IsValid() || before.IsUnspecified() || before.IsMulticast() || after != before {
		t.Errorf("Address = %v, and when it is on %v", before, after)
	}
}

// testShell: commands are run and files copied over everything that the machine
// has for that.
func (d Driver) testShell(t *testing.T) {
	if d.ShellDisk == nil {
		t.Skip("the driver's test has no guest with a shell")
	}
	m := d.machine(t, d.ShellDisk(t))
	must(t, "PowerOn", m.PowerOn(t.Context()))
	t.Run("agent", func(t *testing.T) {
		c, ok := m.(testbed.AgentCaller)
		if !ok {
			t.Skip("the driver has no guest agent")
		}
		runShell(t, &testbed.GuestAgent{Name: m.Name(), Machine: c})
	})
	t.Run("console", func(t *testing.T) {
		c, ok := m.(testbed.Serial)
		if !ok {
			t.Skip("the driver has no serial port")
		}
		port, err := c.OpenSerial(t.Context())
		ask(t, "OpenSerial", err)
		must(t, "Close", port.Close())
		runShell(t, &testbed.ConsoleShell{Name: m.Name(), Machine: c})
	})
}

// runShell holds a shell to what testbed.Shell says, and closes it.
func runShell(t *testing.T, sh testbed.Shell) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	must(t, "Wait", sh.Wait(ctx))
	var out, errs bytes.Buffer
	err := sh.Run(ctx, testbed.Command{Line: "cat; echo \"it's\" 'oh' >&2; exit 3", Stdin: strings.NewReader("in\x00\xff"), Stdout: &out, Stderr: &errs})
	remote, ok := errors.AsType[*testbed.RemoteError](err)
	if !ok || remote.Status != 3 || out.String() != "in\x00\xff" || errs.String() != "it's oh\n" {
		t.Errorf("Run = %v, output %q, %q", err, out.String(), errs.String())
	}
	dir := t.TempDir()
	src, back := filepath.Join(dir, "src"), filepath.Join(dir, "back")
	data := bytes.Repeat([]byte("a\x00\xffz\n"), 1200)
	must(t, "write", os.WriteFile(src, data, 0o600))
	there := "/tmp/" + nameOf(t)
	must(t, "Put", sh.Put(ctx, src, there, 0o751))
	must(t, "Get", sh.Get(ctx, there, back))
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes came back of %d (%v)", len(got), len(data), err)
	}
	out.Reset()
	must(t, "Run", sh.Run(ctx, testbed.Command{Line: "ls -l " + there + "; rm " + there, Stdout: &out}))
	if !strings.HasPrefix(out.String(), "-rwxr-x--x") {
		t.Errorf("the copy is %s; want mode 0751", out.String())
	}
	must(t, "Close", sh.Close())
}
