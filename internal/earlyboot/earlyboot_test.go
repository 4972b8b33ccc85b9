package earlyboot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/initramfs"
)

func TestCmdline(t *testing.T) {
	c := ParseCmdline("root=PARTUUID=0011AAbb-1111-2222-3333-444455556666 ro  quiet\tfoo=\"a b\" panic=3 panic=7 nvme_core.multipath=N nvme-core.x rootwait=0\n")
	want := Cmdline{"root=PARTUUID=0011AAbb-1111-2222-3333-444455556666", "ro", "quiet", "foo=a b",
		"panic=3", "panic=7", "nvme_core.multipath=N", "nvme-core.x", "rootwait=0"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := c.Get("panic"); got != "7" {
		t.Errorf("panic = %q, want the last", got)
	}
	if got := c.Seconds("panic", 10); got != 7*time.Second {
		t.Errorf("panic = %v", got)
	}
	if got := c.Seconds("rootwait", 60); got != time.Minute {
		t.Errorf("rootwait=0 gives %v", got)
	}
	if got := c.moduleOptions("nvme_core"); got != "multipath=N x" {
		t.Errorf("options of nvme_core: %q", got)
	}
}

// What internal/initramfs writes must be what this package reads.
func TestPlan(t *testing.T) {
	if LiveDisk != string(initramfs.LiveDisk) || LiveFile != string(initramfs.LiveFile) {
		t.Error("the words for a live system are not internal/initramfs's")
	}
	w := initramfs.Plan{Live: initramfs.LiveFile, Kernel: "6.1",
		State: []string{"/var", "/srv/data"}, Load: []string{"erofs"},
		Modules: map[string]*initramfs.Module{
			"erofs": {Needs: []string{"libcrc32c"}}, "libcrc32c": {Before: []string{"crc32c_intel"}},
			"crc32c_intel": {},
		},
		Aliases: []initramfs.Alias{{Pattern: "cpu:type:x86,*", Module: "crc32c_intel"}},
	}
	p, err := ParsePlan(string(w.Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	want := &Plan{Live: LiveFile, Kernel: "6.1", State: w.State, Load: w.Load,
		Aliases: []Alias{{"cpu:type:x86,*", "crc32c_intel"}},
		Modules: map[string]*Module{
			"erofs": {Needs: []string{"libcrc32c"}}, "libcrc32c": {Before: []string{"crc32c_intel"}},
			"crc32c_intel": {},
		}}
	equal := cmp.Comparer(func(a, b *Module) bool {
		return strings.Join(a.Needs, " ") == strings.Join(b.Needs, " ") &&
			strings.Join(a.Before, " ") == strings.Join(b.Before, " ")
	})
	if diff := cmp.Diff(want, p, equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, s := range []string{"what is this", "module", "alias x", "before unknown y", "live somewhere"} {
		if _, err := ParsePlan(s); err == nil {
			t.Errorf("plan %q: no error", s)
		}
	}
}

func testLoader(t *testing.T, args string, fail map[string]error) (*Loader, *[]string) {
	p := &Plan{
		Modules: map[string]*Module{
			"ext4": {Needs: []string{"jbd2"}, Before: []string{"crc_fast", "crc_slow"}},
			"jbd2": {}, "crc_fast": {}, "crc_slow": {},
			"disk": {Needs: []string{"bus"}}, "bus": {Needs: []string{"disk"}},
		},
		Aliases: []Alias{{"pci:*d5*", "disk"}, {"cpu:*", "crc_fast"}},
		Load:    []string{"ext4"},
	}
	var order []string
	l := NewLoader(p, ParseCmdline(args), t.Logf)
	l.insert = func(name, options string) error {
		order = append(order, strings.TrimSpace(name+" "+options))
		return fail[name]
	}
	return l, &order
}

func TestLoader(t *testing.T) {
	l, order := testLoader(t, "ext4.debug=1 other.x=2", map[string]error{"crc_fast": unix.ENODEV})
	if err := l.Always(); err != nil {
		t.Fatal(err)
	}
	l.drive("cpu:type:x86")
	l.drive("pci:v1d5")
	l.drive("pci:v1d5")
	want := "crc_fast,crc_slow,jbd2,ext4 debug=1,bus,disk"
	if got := strings.Join(*order, ","); got != want {
		t.Errorf("order %s, want %s", got, want)
	}
}

// Devices and the processor ask for modules once, but for an emulated processor.
func TestColdplug(t *testing.T) {
	for _, c := range []struct{ cpu, want string }{
		{"model name\t: AMD EPYC\n\nmodel name\t: QEMU TCG CPU\n", "bus,disk,crc_fast"},
		{"model name\t: QEMU TCG CPU version 2.5+\n", "bus,disk"},
	} {
		l, order := testLoader(t, "", nil)
		l.sys = t.TempDir()
		l.cpuinfo = filepath.Join(l.sys, "cpuinfo")
		for name, text := range map[string]string{"cpuinfo": c.cpu, "bus/pci/devices/0/modalias": "pci:v1d5\n",
			"devices/system/cpu/modalias": "cpu:type:x86\n"} {
			name = filepath.Join(l.sys, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		l.Coldplug()
		l.Coldplug()
		if got := strings.Join(*order, ","); got != c.want {
			t.Errorf("%q: order %s, want %s", c.cpu, got, c.want)
		}
	}
}

func TestLoaderFailures(t *testing.T) {
	broken := errors.New("broken")
	l, _ := testLoader(t, "", map[string]error{"jbd2": broken})
	for range 2 {
		if err := l.Always(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "jbd2") {
			t.Errorf("got %v, want jbd2's error", err)
		}
	}
	l, order := testLoader(t, "modprobe.blacklist=foo,ext4", nil)
	if err := l.Always(); err == nil || len(*order) != 0 {
		t.Errorf("a module on the blacklist was loaded (%v)", err)
	}
	if err := l.Load("nothing"); err == nil {
		t.Error("an unknown module was loaded")
	}
}
