package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/libvirt"
	"goldsmith/testbed/testbedtest"
)

// TestDomain: 'imgpipe vbmc' before somebody's domain, used by 'imgpipe power'.
// The domain stays as it is when the BMC ends.
func TestDomain(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq")
	bed, err := libvirt.StartBed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer bed.Close()
	dir := t.TempDir()
	image, secret := filepath.Join(dir, "image"), filepath.Join(dir, "secret")
	if err := os.WriteFile(image, testbedtest.Guest{Text: "hello"}.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("swordfish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := bed.Define(t.Context(), libvirt.Config{Name: "theirs", Dir: filepath.Join(dir, "m"), Image: image,
		Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Release(context.Background())

	ctx, cancel := context.WithCancel(t.Context())
	out, in := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan int)
	go func() {
		ended <- program().Run(ctx, []string{"vbmc", "--domain", "goldsmith-theirs", "--connect", bed.URI(),
			"--listen", "127.0.0.1:0", "--password-file", secret, "--json"}, command.IO{Stdout: in, Stderr: &stderr})
		_ = in.Close()
	}()
	var state struct{ Addr string }
	if err := json.NewDecoder(bufio.NewReader(out)).Decode(&state); err != nil {
		t.Fatalf("vbmc: status %d: %v\n%s", <-ended, err, &stderr)
	}
	for _, c := range []struct {
		verb, says string
		want       testbed.Power
	}{{"status", ": off", testbed.Off}, {"on", ": on", testbed.On}, {"reset", ": on", testbed.On},
		{"off", ": off", testbed.Off}, {"cycle", ": on", testbed.On}} {
		var stdout, stderr bytes.Buffer
		status := program().Run(t.Context(), []string{"power", c.verb, state.Addr, "--user", "admin", "--password-file", secret},
			command.IO{Stdout: &stdout, Stderr: &stderr})
		if status != 0 || !strings.HasSuffix(strings.TrimSpace(stdout.String()), c.says) {
			t.Errorf("power %s: status %d: %s%s", c.verb, status, &stdout, &stderr)
		}
		if p, err := m.Power(t.Context()); p != c.want || err != nil {
			t.Errorf("after power %s the domain is %v, %v", c.verb, p, err)
		}
	}
	cancel()
	if status := <-ended; status != command.StatusInterrupted {
		t.Errorf("vbmc: status %d: %s", status, &stderr)
	}
	if p, err := m.Power(t.Context()); p != testbed.On || err != nil {
		t.Errorf("after vbmc ended the domain is %v, %v", p, err)
	}
}
