package qemu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

func driver(f testbed.Firmware) testbedtest.Driver {
	return testbedtest.Driver{
		ShellDisk: testbedtest.LinuxDisk,
		NewWith: func(ctx context.Context, s testbedtest.Spec) (testbed.Machine, error) {
			c := MachineConfig{Name: s.Name, Dir: s.Dir, Firmware: f, CPUs: 1, MemoryMiB: 128, Accelerator: testbed.TCG, NICs: []NIC{{SSH: true}}}
			for _, image := range s.Disks {
				c.Disks = append(c.Disks, Disk{Image: image})
			}
			if s.CD != "" {
				c.Disks = append(c.Disks, Disk{Image: s.CD, CD: true})
			}
			m, err := New(ctx, c)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
		Left: left,
	}
}

// left lists the processes of a machine.
func left(name string) ([]string, error) {
	var found []string
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), "\x00guest="+name+"\x00") {
			found = append(found, f)
		}
	}
	return found, err
}

func TestSuite(t *testing.T) {
	t.Parallel()
	testenv.Need(t, program, "qemu-img")
	testbedtest.Run(t, driver(testbed.BIOS))
}

// machine makes one from a guest.
func machine(t *testing.T, g testbedtest.Guest, c MachineConfig) *Machine {
	t.Helper()
	testenv.Need(t, program, "qemu-img")
	c.Name, c.Dir, c.Firmware = "m", filepath.Join(t.TempDir(), "m, of a test"), testbed.BIOS
	c.CPUs, c.MemoryMiB, c.Accelerator = 1, 64, testbed.TCG
	c.Disks = append([]Disk{{Image: image(t, g.BIOSDisk())}}, c.Disks...)
	m, err := New(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Release(context.Background()); err != nil {
			t.Errorf("Release: %v", err)
		}
		if names, _ := os.ReadDir(c.Dir); len(names) > 1 || len(names) == 1 && names[0].Name() != consoleName {
			t.Errorf("left in the machine's directory: %v", names)
		}
	})
	return m
}

// TestSSHPort: a port is chosen at the first start and stays.
func TestSSHPort(t *testing.T) {
	m := machine(t, testbedtest.Guest{Text: "hello"}, MachineConfig{NICs: []NIC{{SSH: true}}})
	if _, err := m.SSHAddr(); err == nil {
		t.Error("a port before the first start")
	}
	for range 2 {
		before, _ := m.SSHAddr()
		if err := m.PowerOn(t.Context()); err != nil {
			t.Fatal(err)
		}
		addr, err := m.SSHAddr()
		if err != nil || before.IsValid() && addr != before {
			t.Errorf("SSHAddr = %v, %v; before %v", addr, err, before)
		}
		c, err := testbed.Host{}.Dial(t.Context(), "tcp", addr.String())
		if err != nil {
			t.Error(err)
		} else {
			_ = c.Close()
		}
		if err := m.PowerOff(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDies: a QEMU that ends by itself is a machine that is off, and a fault
// that says so.
func TestDies(t *testing.T) {
	m := machine(t, testbedtest.Guest{Text: "hello"}, MachineConfig{})
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := m.current().command(t.Context(), "quit"); err != nil {
		t.Fatal(err)
	}
	if err := m.WaitOff(t.Context()); err != nil { // asked to, in QEMU's words
		t.Error(err)
	}
	if err := m.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(m.diskFile(0)); err != nil {
		t.Fatal(err)
	}
	err := m.Reset(t.Context())
	fault, ok := errors.AsType[*testbed.Fault](err)
	if !ok || fault.Kind != testbed.Broken || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("Reset without a disk: %v", err)
	}
	if p, err := m.Power(t.Context()); p != testbed.Off {
		t.Errorf("Power = %v, %v; want off", p, err)
	}
}

// TestOrder: what the machine was told comes first, the rest in its own order,
// and nothing starts from a seed or a card that may not.
func TestOrder(t *testing.T) {
	c := MachineConfig{
		Disks: []Disk{{Size: 1}, {CD: true}, {Size: 1}, {ReadOnly: true}},
		NICs:  []NIC{{}, {Boot: true}},
	}
	for first, want := range map[testbed.Device]map[string]int{
		"":                  {"disk0": 1, "disk2": 2, "disk1": 3, "net1": 4},
		testbed.FromDisk:    {"disk0": 1, "disk2": 2, "disk1": 3, "net1": 4},
		testbed.FromCD:      {"disk1": 1, "disk0": 2, "disk2": 3, "net1": 4},
		testbed.FromNetwork: {"net1": 1, "disk0": 2, "disk2": 3, "disk1": 4},
	} {
		if diff := cmp.Diff(want, c.bootOrder(first)); diff != "" {
			t.Errorf("first %q (-want +got):\n%s", first, diff)
		}
	}
}

func TestMachineArgs(t *testing.T) {
	m := &Machine{code: "/code", cfg: MachineConfig{Name: "m", Dir: "/d,d", CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG,
		Disks: []Disk{{Image: "/i"}, {File: "/kept"}, {Image: "/seed", ReadOnly: true, Format: "raw"},
			{Image: "/cd", CD: true, Format: "raw", Serial: "s-1"}},
		NICs: []NIC{{MAC: "m0", Tap: "tap1", Boot: true}, {MAC: "m1", SSH: true, TFTP: "/t", BootFile: "f"}, {MAC: "m2", Uplink: true}}}}
	got := m.args(testbed.FromNetwork, 2222)
	want := strings.Split(`qemu-system-x86_64 -nodefaults -no-user-config -display none
-machine q35 -accel tcg,thread=multi -cpu max -smp 1 -m 64 -device virtio-rng-pci
-name guest=m -S -action reboot=shutdown
-chardev socket,id=monitor,fd=3 -mon chardev=monitor,mode=control
-chardev socket,id=serial,fd=4,logappend=on,logfile=/d,,d/console.log -serial chardev:serial
-device virtio-serial-pci -chardev socket,id=agent,fd=5 -device virtserialport,chardev=agent,name=org.qemu.guest_agent.0
-drive if=pflash,unit=0,format=raw,readonly=on,file=/code -drive if=pflash,unit=1,format=raw,file=/d,,d/vars.fd
-drive if=none,id=disk0,format=qcow2,discard=unmap,cache=unsafe,file=/d,,d/disk0.qcow2 -device virtio-blk-pci,drive=disk0,bootindex=2
-drive if=none,id=disk1,format=raw,discard=unmap,file=/kept -device virtio-blk-pci,drive=disk1,bootindex=3
-drive if=none,id=disk2,format=raw,readonly=on,file=/seed -device virtio-blk-pci,drive=disk2
-drive if=none,id=disk3,format=raw,media=cdrom,readonly=on,file=/cd -device ide-cd,drive=disk3,serial=s-1,bootindex=4
-netdev tap,id=net0,ifname=tap1,script=no,downscript=no -device virtio-net-pci,netdev=net0,mac=m0,bootindex=1
-netdev user,id=net1,restrict=on,tftp=/t,bootfile=f,hostfwd=tcp:127.0.0.1:2222-:22 -device virtio-net-pci,netdev=net1,mac=m1,romfile=
-netdev user,id=net2 -device virtio-net-pci,netdev=net2,mac=m2,romfile=`, "\n")
	if diff := cmp.Diff(strings.Fields(strings.Join(want, " ")), got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// TestBadConfig: what cannot work is said before anything is made.
func TestBadConfig(t *testing.T) {
	testenv.Need(t, program)
	img := image(t, make([]byte, 1<<20))
	for want, change := range map[string]func(*MachineConfig){
		"letters, digits":    func(c *MachineConfig) { c.Name = "a,b" },
		"directory and":      func(c *MachineConfig) { c.Disks = nil },
		"no image and no":    func(c *MachineConfig) { c.Disks = []Disk{{}} },
		"give one of":        func(c *MachineConfig) { c.Disks = []Disk{{Image: img, File: img}} },
		"nothing to read":    func(c *MachineConfig) { c.Disks = []Disk{{CD: true, Size: 1}} },
		"no such file":       func(c *MachineConfig) { c.Disks[0].Image = img + "x" },
		"serial number":      func(c *MachineConfig) { c.Disks[0].Serial = "a,bootindex=9" },
		"tap device \"a,b\"": func(c *MachineConfig) { c.NICs = []NIC{{Tap: "a,b"}} },
		"hardware address":   func(c *MachineConfig) { c.NICs = []NIC{{MAC: "02:00,x=y"}} },
		"port forwarding":    func(c *MachineConfig) { c.NICs = []NIC{{Tap: "a", SSH: true}} },
		"\"coreboot\"":       func(c *MachineConfig) { c.Firmware = "coreboot" },
	} {
		c := MachineConfig{Name: "m", Dir: filepath.Join(t.TempDir(), "m"), Disks: []Disk{{Image: img}}, Accelerator: testbed.TCG}
		change(&c)
		if _, err := New(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v; want %q", err, want)
		}
		if _, err := os.Stat(c.Dir); err == nil {
			t.Errorf("%s: the directory is left", want)
		}
	}
}

// TestOneMachineADirectory: a directory whose machine lives is refused.
func TestOneMachineADirectory(t *testing.T) {
	m := machine(t, testbedtest.Guest{Text: "hello"}, MachineConfig{})
	if _, err := New(t.Context(), m.cfg); command.HintOf(err) == "" || !strings.Contains(err.Error(), "another machine") {
		t.Errorf("New = %v; want that the directory is another machine's", err)
	}
}

// TestNetworkBoot starts a machine by PXE from QEMU's own network, and from
// its disk afterwards.
func TestNetworkBoot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	loader := testbedtest.Guest{Text: "from the network\r\n", Reset: true}.NetworkLoader()
	if err := os.WriteFile(filepath.Join(dir, "guest"), loader, 0o600); err != nil {
		t.Fatal(err)
	}
	m := machine(t, testbedtest.Guest{Text: "from the disk\r\n", Off: true},
		MachineConfig{NICs: []NIC{{}, {Boot: true, TFTP: dir, BootFile: "guest"}}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork, Once: true, Firmware: testbed.BIOS}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.PowerOn(ctx), m.WaitOff(ctx)); err != nil {
		t.Error(err)
	}
	text, err := m.Console().Text()
	_, after, ok := strings.Cut(text, "from the network")
	if err != nil || !ok || !strings.Contains(after, "from the disk") {
		t.Errorf("console (%v): %q", err, text)
	}
}

// TestUnsupported: what a machine has not, it cannot start from, and says so.
func TestUnsupported(t *testing.T) {
	m := machine(t, testbedtest.Guest{Text: "hello"}, MachineConfig{NICs: []NIC{{}}})
	for _, b := range []testbed.Boot{{Device: testbed.FromNetwork}, {Device: testbed.FromCD}, {Device: testbed.FromSetup},
		{Device: testbed.FromDisk, Firmware: testbed.UEFI}} {
		f, ok := errors.AsType[*testbed.Fault](m.SetBoot(t.Context(), b))
		if !ok || f.Kind != testbed.Unsupported {
			t.Errorf("SetBoot(%+v) = %v; want unsupported", b, f)
		}
	}
	if b, err := m.BootOrder(t.Context()); b != (testbed.Boot{}) || err != nil {
		t.Errorf("BootOrder = %+v, %v; want nothing", b, err)
	}
}

// TestUEFI starts one machine with OVMF from its CD, once, and from its disk
// after a reset. The rest of the suite would show nothing more.
func TestUEFI(t *testing.T) {
	t.Parallel()
	testenv.NeedFile(t, "/usr/share/OVMF/OVMF_CODE_4M.fd")
	disk, err := testbedtest.Guest{Text: "disk through OVMF", Off: true}.UEFIDisk()
	if err != nil {
		t.Fatal(err)
	}
	cd, err := testbedtest.Guest{Text: "CD through OVMF", Reset: true}.UEFICD()
	if err != nil {
		t.Fatal(err)
	}
	m, err := driver(testbed.UEFI).NewWith(t.Context(), testbedtest.Spec{Name: "uefi", Dir: filepath.Join(t.TempDir(), "m"),
		Disks: []string{image(t, disk)}, CD: image(t, cd)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	defer m.Release(ctx)
	q := m.(*Machine)
	if err := q.SetBoot(ctx, testbed.Boot{Device: testbed.FromCD, Once: true}); err != nil {
		t.Error(err)
	}
	if err := errors.Join(m.PowerOn(ctx), q.WaitOff(ctx)); err != nil {
		t.Error(err)
	}
	text, _ := q.Console().Text()
	_, after, ok := strings.Cut(text, "CD through OVMF")
	if !ok || !strings.Contains(after, "disk through OVMF") {
		t.Errorf("console: %q", text)
	}
}
