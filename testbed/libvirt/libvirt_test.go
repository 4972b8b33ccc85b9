package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"go.uber.org/goleak"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

func TestMain(m *testing.M) {
	Init()
	helper()
	goleak.VerifyTestMain(m)
}

// bed starts a bed for the test.
func bed(t *testing.T) *Bed {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq")
	start := time.Now()
	b, err := StartBed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("bed started in %.2f s", time.Since(start).Seconds())
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if _, err := os.Stat(b.owner.dir); err == nil {
			t.Errorf("%s is left", b.owner.dir)
		}
	})
	return b
}

// driver holds a host to the suite.
func driver(h *Host, firmware testbed.Firmware, pool string) testbedtest.Driver {
	return testbedtest.Driver{
		ShellDisk: testbedtest.LinuxDisk,
		NewWith: func(ctx context.Context, s testbedtest.Spec) (testbed.Machine, error) {
			c := Config{Name: s.Name, Dir: s.Dir, Image: s.Disks[0], Firmware: firmware, Pool: pool,
				CPUs: 1, MemoryMiB: 128, Accelerator: testbed.TCG}
			for _, image := range s.Disks[1:] {
				c.Disks = append(c.Disks, Disk{Image: image})
			}
			if s.CD != "" {
				c.Disks = append(c.Disks, Disk{Image: s.CD, CD: true})
			}
			m, err := h.Define(ctx, c)
			if err != nil {
				return nil, err
			}
			return m, nil
		},
		// A QEMU with a system in its memory takes the kernel a moment to end.
		Left: func(name string) (left []string, err error) {
			for range 30 {
				if left, err = leftOf(h, name); err != nil || len(left) == 0 {
					break
				}
				time.Sleep(100 * time.Millisecond)
			}
			return left, err
		},
	}
}

// leftOf lists domains and processes of a machine.
func leftOf(h *Host, name string) ([]string, error) {
	doms, _, err := h.l.ConnectListAllDomains(1, golibvirt.ConnectListDomainsActive|golibvirt.ConnectListDomainsInactive)
	if err != nil {
		return nil, err
	}
	var left []string
	for _, d := range doms {
		if d.Name == namePrefix+name {
			left = append(left, "domain "+d.Name)
		}
	}
	return append(left, processes("guest="+namePrefix+name+",")...), nil
}

// processes lists those whose command line holds s, whatever namespace they
// are in.
func processes(s string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		line := strings.ReplaceAll(string(b), "\x00", " ")
		if strings.Contains(line, s) && filepath.Base(filepath.Dir(f)) != fmt.Sprint(os.Getpid()) {
			found = append(found, fmt.Sprintf("process %s: %.80s", filepath.Base(filepath.Dir(f)), line))
		}
	}
	return found
}

func TestSuite(t *testing.T) {
	t.Parallel()
	b := bed(t)
	testbedtest.Run(t, driver(b.Host, testbed.BIOS, ""))
	if n := len(b.addresses.free); n != lastAddress-firstAddress+1 {
		t.Errorf("%d addresses are free; want all", n)
	}
}

// TestUEFI starts one machine with OVMF, from a FAT file system of ours. The
// rest of the suite would show nothing more, in ten seconds a boot.
func TestUEFI(t *testing.T) {
	t.Parallel()
	testenv.NeedFile(t, "/usr/share/OVMF/OVMF_CODE_4M.fd")
	b := bed(t)
	disk, err := testbedtest.Guest{Text: "through OVMF", Off: true}.UEFIDisk()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := driver(b.Host, testbed.UEFI, "").NewWith(t.Context(), testbedtest.Spec{Name: "uefi", Dir: filepath.Join(dir, "m"), Disks: []string{image}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := errors.Join(m.PowerOn(ctx), m.(testbed.OffWaiter).WaitOff(ctx)); err != nil {
		t.Error(err)
	}
	text, _ := m.(testbed.Consoled).Console().Text()
	if !strings.Contains(text, "through OVMF") {
		t.Errorf("console: %s", text)
	}
	if _, err := os.Stat(filepath.Join(dir, "m", nvramName)); err != nil {
		t.Error(err)
	}
	if err := m.Release(ctx); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "m")); len(left) != 1 || left[0].Name() != consoleName {
		t.Errorf("left in the machine's directory: %v", left)
	}
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
