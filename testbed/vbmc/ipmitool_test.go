package vbmc

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/testbedtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "swordfish"

// rig is a QEMU machine behind a BMC.
func rig(t *testing.T, g testbedtest.Guest) (*qemu.Machine, *BMC) {
	t.Helper()
	testenv.Need(t, "qemu-system-x86_64", "qemu-img")
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, g.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := qemu.New(t.Context(), qemu.MachineConfig{Name: "m", Dir: filepath.Join(dir, "m"), Disks: []qemu.Disk{{Image: image}},
		NICs: []qemu.NIC{{Boot: true}}, Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Start(t.Context(), Config{Machine: m, Users: []User{{Name: "admin", Password: secret}, {Name: "oper", Password: "o", Operator: true}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := b.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		}
		if err := m.Release(context.Background()); err != nil {
			t.Errorf("Release: %v", err)
		}
	})
	return m, b
}

// ipmitool is its command line for a BMC.
func ipmitool(t *testing.T, b *BMC, args ...string) *exec.Cmd {
	t.Helper()
	testenv.Need(t, "ipmitool")
	host, port, err := net.SplitHostPort(b.Addr())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, "ipmitool", append([]string{"-I", "lanplus", "-H", host, "-p", port, "-U", "admin", "-E"}, args...)...)
	c.Env = append(os.Environ(), "IPMI_PASSWORD="+secret)
	return c
}

// says runs ipmitool and looks at what it prints.
func says(t *testing.T, b *BMC, want string, args ...string) {
	t.Helper()
	out, err := ipmitool(t, b, args...).CombinedOutput()
	if err != nil || !regexp.MustCompile(want).Match(out) {
		t.Errorf("ipmitool %s: %v\n%s\nwant %q", strings.Join(args, " "), err, out, want)
	}
}

// becomes waits until the machine has a state of power.
func becomes(t *testing.T, m testbed.Machine, want testbed.Power) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for {
		p, err := m.Power(t.Context())
		if err != nil || time.Now().After(end) {
			t.Fatalf("Power = %v, %v; want %v", p, err, want)
		}
		if p == want {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestIpmitoolPower(t *testing.T) {
	m, b := rig(t, testbedtest.Guest{Text: "hello"})
	see := func(n int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, _, err := m.Console().Wait(ctx, 0, regexp.MustCompile("(?s)"+strings.Repeat("hello.*", n))); err != nil {
			t.Error(err)
		}
	}
	says(t, b, "Chassis Power is off", "power", "status")
	says(t, b, "Up/On", "power", "on")
	says(t, b, "Chassis Power is on", "power", "status")
	see(1)
	says(t, b, "Reset", "power", "reset")
	see(2)
	says(t, b, "Cycle", "power", "cycle")
	see(3)
	says(t, b, "Soft", "power", "soft")
	becomes(t, m, testbed.Off)
	says(t, b, "Up/On", "power", "on")
	says(t, b, "Down/Off", "power", "off")
	becomes(t, m, testbed.Off)
	for _, act := range []string{"cycle", "reset", "soft", "diag"} {
		if out, err := ipmitool(t, b, "power", act).CombinedOutput(); err == nil {
			t.Errorf("power %s while off: %s", act, out)
		}
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(watchEvery) { // the BMC looks now and then
		out, err := ipmitool(t, b, "sel", "elist").CombinedOutput()
		if err == nil && regexp.MustCompile(`(?s)S0/G0: working.*S4/S5`).Match(out) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("sel elist: %v\n%s", err, out)
		}
	}
	says(t, b, "Clearing SEL", "sel", "clear")
	says(t, b, "(?i)no entries", "sel", "list")
}

func TestIpmitoolBoot(t *testing.T) {
	m, b := rig(t, testbedtest.Guest{Text: "hello"})
	for _, c := range []struct {
		args string
		want testbed.Boot
		says string
	}{
		{"pxe", testbed.Boot{Device: testbed.FromNetwork, Once: true}, "(?s)Boot Flag Valid.*next boot.*legacy.*Force PXE"},
		{"disk options=persistent", testbed.Boot{Device: testbed.FromDisk}, "(?s)Boot Flag Valid.*all future boots.*Force Boot from default Hard-Drive"},
		{"none", testbed.Boot{}, "No override"},
	} {
		says(t, b, "Set Boot Device", append([]string{"chassis", "bootdev"}, strings.Fields(c.args)...)...)
		if got, _ := m.BootOrder(t.Context()); got != c.want {
			t.Errorf("bootdev %s: the machine was told %+v; want %+v", c.args, got, c.want)
		}
		says(t, b, c.says, "chassis", "bootparam", "get", "5")
	}
	// The machine has BIOS and no CD: both are refused.
	for _, args := range []string{"pxe options=efiboot", "cdrom", "floppy"} {
		if out, err := ipmitool(t, b, append([]string{"chassis", "bootdev"}, strings.Fields(args)...)...).CombinedOutput(); !bytes.Contains(out, []byte("failed")) {
			t.Errorf("bootdev %s: %v %s", args, err, out)
		}
	}
	if got, _ := m.BootOrder(t.Context()); got != (testbed.Boot{}) {
		t.Errorf("what was refused was done: %+v", got)
	}
	// For one start means that.
	says(t, b, "Set Boot Device", "chassis", "bootdev", "disk")
	says(t, b, "Up/On", "power", "on")
	says(t, b, "Boot Flag Invalid", "chassis", "bootparam", "get", "5")
}

func TestIpmitoolSensors(t *testing.T) {
	m, b := rig(t, testbedtest.Guest{Text: "hello"})
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	says(t, b, `(?s)Inlet Temp +\| 23 degrees C +\| ok.*CPU Temp +\| 48.*Fan 1 +\| 4500 RPM +\| ok.*12V +\| 12.06 Volts`, "sdr", "list")
	says(t, b, `(?s)Fan 1 .*4500.000.*RPM.*20000.000`, "sensor", "list")
	says(t, b, `Device ID +: 32`, "mc", "info")
}

func TestIpmitoolSOL(t *testing.T) {
	testenv.Need(t, "script")
	m, b := rig(t, testbedtest.Guest{Text: "first light"})
	c := ipmitool(t, b, "sol", "activate")
	c.Args = []string{"script", "-qec", strings.Join(c.Args, " "), "/dev/null"}
	c.Path, c.Err = exec.LookPath("script")
	keys, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out := &screen{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "SOL Session operational")
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "first light")
	if _, err := keys.Write([]byte("\r~.")); err != nil {
		t.Error(err)
	}
	_ = c.Wait()
	out.wait(t, "terminated ipmitool")
}

func TestIpmitoolDenied(t *testing.T) {
	_, b := rig(t, testbedtest.Guest{})
	wrong := ipmitool(t, b, "power", "status")
	wrong.Env = append(wrong.Env, "IPMI_PASSWORD=wrong")
	if out, err := wrong.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("Unable to establish")) {
		t.Errorf("wrong password: %v\n%s", err, out)
	}
	oper := ipmitool(t, b, "-L", "OPERATOR", "-U", "oper", "sol", "activate")
	oper.Env = append(oper.Env, "IPMI_PASSWORD=o")
	if out, err := oper.CombinedOutput(); err == nil {
		t.Errorf("an operator has the console:\n%s", out)
	}
	oper = ipmitool(t, b, "-L", "OPERATOR", "-U", "oper", "power", "status")
	oper.Env = append(oper.Env, "IPMI_PASSWORD=o")
	if out, err := oper.CombinedOutput(); err != nil {
		t.Errorf("an operator may not look: %v\n%s", err, out)
	}
}
