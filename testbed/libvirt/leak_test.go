package libvirt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// helperEnv makes this test binary a process that makes a machine and then
// waits to be killed: on a bed of its own, or on the libvirtd whose URI
// follows.
const helperEnv = "GOLDSMITH_TEST_HELPER"

func helper() {
	what, dir, _ := strings.Cut(os.Getenv(helperEnv), " ")
	if what == "" {
		return
	}
	_ = os.Unsetenv(helperEnv) // not for the bed's first process
	ctx := context.Background()
	h, err := helperHost(ctx, what)
	var m *Machine
	if err == nil {
		m, err = h.Define(ctx, Config{Name: "helper", Dir: dir, Image: filepath.Join(dir, "..", "image"),
			Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG})
	}
	if err == nil {
		err = m.PowerOn(ctx)
	}
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	fmt.Println(h.owner.dir)
	time.Sleep(time.Hour)
}

func helperHost(ctx context.Context, what string) (*Host, error) {
	if what != "bed" {
		return Connect(ctx, what)
	}
	b, err := StartBed(ctx)
	if err != nil {
		return nil, err
	}
	return b.Host, nil
}

// startHelper starts a helper and returns it and its owner's directory.
func startHelper(t *testing.T, what string) (cmd *exec.Cmd, machineDir, ownerDir string) {
	t.Helper()
	base := t.TempDir()
	if err := os.WriteFile(filepath.Join(base, "image"), testbedtest.Guest{Text: "helped"}.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	machineDir = filepath.Join(base, "m")
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+what+" "+machineDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || strings.HasPrefix(line, "error") {
		t.Fatalf("helper: %q, %v", line, err)
	}
	return cmd, machineDir, strings.TrimSpace(line)
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// eventually asks until there is nothing left, for at most ten seconds.
func eventually(t *testing.T, what string, left func() []string) {
	t.Helper()
	var l []string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if l = left(); len(l) == 0 {
			return
		}
	}
	t.Errorf("%s: %v", what, l)
}

func pidOf(process string) string {
	pid, _, _ := strings.Cut(strings.TrimPrefix(process, "process "), ":")
	return pid
}

// inNamespace lists the processes in a PID namespace.
func inNamespace(ns string) []string {
	var in []string
	for _, p := range processes("") {
		if l, _ := os.Readlink("/proc/" + pidOf(p) + "/ns/pid"); l == ns {
			in = append(in, p)
		}
	}
	return in
}

// ownRuntimeDir keeps beds of this test where no other process sweeps: the
// first to start one removes what killed owners left.
func ownRuntimeDir(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "gsl") // short: it will hold sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_RUNTIME_DIR", dir)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
}

// TestKilledOwner kills a process that owns a bed with a running machine.
func TestKilledOwner(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq")
	ownRuntimeDir(t)
	cmd, _, dir := startHelper(t, "bed")
	first := processes(bedArg0 + " " + dir)
	if len(first) != 1 {
		t.Fatalf("first processes of the bed: %v", first)
	}
	ns, err := os.Readlink("/proc/" + pidOf(first[0]) + "/ns/pid")
	if err != nil {
		t.Fatal(err)
	}
	living := func() []string { return inNamespace(ns) }
	if p := living(); len(p) < 4 { // first process, libvirtd, QEMU, dnsmasq
		t.Fatalf("the bed has only %v", p)
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.HasPrefix(l.Name, "gsbr") {
			t.Errorf("the bed's bridge is seen on the host")
		}
	}
	if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), dir) {
		t.Errorf("the bed's mounts are seen on the host")
	}
	kill(t, cmd)
	eventually(t, "left by a killed owner", living)
	if _, err := os.Stat(dir); err != nil {
		t.Fatalf("the directory should wait for the next run: %v", err)
	}
	bed(t) // the next run
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was not removed by the next run: %v", dir, err)
	}
}

// TestSweep kills a process that has a machine on a libvirtd that stays.
func TestSweep(t *testing.T) {
	b := bed(t)
	h, err := Connect(t.Context(), b.URI())
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if _, err := b.l.NetworkCreateXML(strings.NewReplacer("<name>"+bedNetwork, "<name>default", "gsbr0", "gsbr1", "10.78.0.", "10.78.1.").Replace(bedNetworkXML())); err != nil {
		t.Fatal(err)
	}
	cmd, mdir, odir := startHelper(t, b.URI())
	left := func() []string {
		l, err := leftOf(h, "helper")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{odir, filepath.Join(mdir, "disk.qcow2")} {
			if _, err := os.Stat(p); err == nil {
				l = append(l, p)
			}
		}
		return l
	}
	if err := h.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(left()) != 4 {
		t.Errorf("a living owner's machine was swept: %v are left", left())
	}
	_, err = h.Define(t.Context(), Config{Name: "helper", Dir: t.TempDir(), Image: "/nonexistent", Firmware: testbed.BIOS})
	if command.Status(err) != command.StatusBusy {
		t.Errorf("Define of a name in use: %v; want a busy error", err)
	}
	kill(t, cmd)
	next, err := Connect(t.Context(), b.URI())
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if l := left(); len(l) > 0 {
		t.Errorf("left by a killed owner: %v", l)
	}
}

// TestBedEnds kills libvirtd's bed from inside: calls fail, Close works.
func TestBedEnds(t *testing.T) {
	b := bed(t)
	if err := syscall.Kill(b.proc.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-b.proc.done
	_, err := b.Define(t.Context(), Config{Name: "x", Dir: t.TempDir(), Image: "x", Firmware: testbed.BIOS})
	if err == nil {
		t.Error("Define on a dead bed: no error")
	}
}

// TestNetwork reaches a listener in the bed from the bed, and not from the
// host.
func TestNetwork(t *testing.T) {
	b := bed(t)
	addr := Gateway.String() + ":0"
	l, err := b.Network.Listen(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "inside")
			_ = c.Close()
		}
	}()
	c, err := b.Network.Dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if string(got) != "inside" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	_ = c.Close()
	var links strings.Builder
	err = b.Network.Exec(t.Context(), command.Exec{Args: []string{"cat", "/proc/self/net/dev"}, Stdout: &links})
	if err != nil || !strings.Contains(links.String(), "gsbr0") || strings.Contains(links.String(), "eth0") {
		t.Errorf("Exec sees %q, %v", links.String(), err)
	}
	err = b.Network.Exec(t.Context(), command.Exec{Args: []string{"no-such-program"}})
	if command.Status(err) != command.StatusMissing {
		t.Errorf("Exec of nothing: %v; want a missing error", err)
	}
	local, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if c, err := b.Network.Dial(t.Context(), "tcp", local.Addr().String()); err == nil {
		_ = c.Close()
		t.Error("the bed reaches the host's loopback")
	}
}

func TestNoLibvirtd(t *testing.T) {
	_, err := Connect(t.Context(), "qemu+unix:///system?socket=/nonexistent/sock")
	if command.Status(err) != command.StatusMissing || strings.Contains(err.Error(), "\n") {
		t.Errorf("Connect = %v; want one line, status missing", err)
	}
	for _, uri := range []string{"xen:///system", "qemu:///session", "qemu+ssh://host/system", "%"} {
		if _, err := Connect(t.Context(), uri); command.Status(err) != command.StatusUsage {
			t.Errorf("Connect(%q) = %v; want a usage error", uri, err)
		}
	}
}
