package main

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
	c := parseCmdline("root=PARTUUID=0011AAbb-1111-2222-3333-444455556666 ro  quiet\tfoo=\"a b\" panic=3 panic=7 nvme_core.multipath=N nvme-core.x rootwait=0\n")
	want := cmdline{"root=PARTUUID=0011AAbb-1111-2222-3333-444455556666", "ro", "quiet", "foo=a b",
		"panic=3", "panic=7", "nvme_core.multipath=N", "nvme-core.x", "rootwait=0"}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := c.get("panic"); got != "7" {
		t.Errorf("panic = %q, want the last", got)
	}
	if got := c.seconds("panic", 10); got != 7*time.Second {
		t.Errorf("panic = %v", got)
	}
	if got := c.seconds("rootwait", 60); got != time.Minute {
		t.Errorf("rootwait=0 gives %v", got)
	}
	if got := c.moduleOptions("nvme_core"); got != "multipath=N x" {
		t.Errorf("options of nvme_core: %q", got)
	}
	if got, err := c.rootGUID(); err != nil || got != "0011aabb-1111-2222-3333-444455556666" {
		t.Errorf("rootGUID() = %q, %v", got, err)
	}
	for _, s := range []string{"", "quiet", "root=/dev/sda1", "root=PARTUUID=1",
		"root=LABEL=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		if _, err := parseCmdline(s).rootGUID(); err == nil {
			t.Errorf("rootGUID of %q: no error", s)
		}
	}
}

func TestRootHash(t *testing.T) {
	const hash = "0011aabb11112222333344445555666677778888999900001111222233334444"
	for _, c := range []struct{ args, err string }{
		{"roothash=" + hash, ""},
		{"root=PARTUUID=0011AABB-1111-2222-3333-444455556666 roothash=" + strings.ToUpper(hash), ""},
		{"root=PARTUUID=1111aabb-1111-2222-3333-444455556666 roothash=" + hash, "different roots"},
		{"root=/dev/vda roothash=" + hash, "want PARTUUID="},
		{"root=PARTUUID=0011aabb-1111-2222-3333-444455556666", "no roothash="},
		{"roothash=" + hash[1:], "want 64"}, {"roothash=" + hash[2:], "want 64"}, {"roothash=x" + hash[1:], "want 64"},
	} {
		got, err := parseCmdline(c.args).rootHash()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || formatGUID(got[16:]) != "77778888-9999-0000-1111-222233334444" {
			t.Errorf("%s: %x, %v", c.args, got, err)
		}
	}
}

// What internal/initramfs writes must be what this package reads.
func TestPlan(t *testing.T) {
	if liveDisk != string(initramfs.LiveDisk) || liveFile != string(initramfs.LiveFile) ||
		liveRoot != "/"+initramfs.LiveRootPath {
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
	p, err := parsePlan(string(w.Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	want := &plan{live: liveFile, kernel: "6.1", state: w.State, load: w.Load,
		aliases: []alias{{"cpu:type:x86,*", "crc32c_intel"}},
		modules: map[string]*module{
			"erofs": {needs: []string{"libcrc32c"}}, "libcrc32c": {before: []string{"crc32c_intel"}},
			"crc32c_intel": {},
		}}
	equal := cmp.Comparer(func(a, b *module) bool {
		return strings.Join(a.needs, " ") == strings.Join(b.needs, " ") &&
			strings.Join(a.before, " ") == strings.Join(b.before, " ")
	})
	if diff := cmp.Diff(want, p, cmp.AllowUnexported(plan{}, alias{}), equal); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for _, s := range []string{"what is this", "module", "alias x", "before unknown y", "live somewhere"} {
		if _, err := parsePlan(s); err == nil {
			t.Errorf("plan %q: no error", s)
		}
	}
}

func testLoader(t *testing.T, args string, fail map[string]error) (*loader, *[]string) {
	p := &plan{
		modules: map[string]*module{
			"ext4": {needs: []string{"jbd2"}, before: []string{"crc_fast", "crc_slow"}},
			"jbd2": {}, "crc_fast": {}, "crc_slow": {},
			"disk": {needs: []string{"bus"}}, "bus": {needs: []string{"disk"}},
		},
		aliases: []alias{{"pci:*d5*", "disk"}, {"cpu:*", "crc_fast"}},
		load:    []string{"ext4"},
	}
	var order []string
	l := newLoader(p, parseCmdline(args), &console{})
	l.insert = func(name, options string) error {
		order = append(order, strings.TrimSpace(name+" "+options))
		return fail[name]
	}
	return l, &order
}

func TestLoader(t *testing.T) {
	l, order := testLoader(t, "ext4.debug=1 other.x=2", map[string]error{"crc_fast": unix.ENODEV})
	if err := l.always(); err != nil {
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
		l.coldplug()
		l.coldplug()
		if got := strings.Join(*order, ","); got != c.want {
			t.Errorf("%q: order %s, want %s", c.cpu, got, c.want)
		}
	}
}

func TestLoaderFailures(t *testing.T) {
	broken := errors.New("broken")
	l, _ := testLoader(t, "", map[string]error{"jbd2": broken})
	for range 2 {
		if err := l.always(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "jbd2") {
			t.Errorf("got %v, want jbd2's error", err)
		}
	}
	l, order := testLoader(t, "modprobe.blacklist=foo,ext4", nil)
	if err := l.always(); err == nil || len(*order) != 0 {
		t.Errorf("a module on the blacklist was loaded (%v)", err)
	}
	if err := l.load("nothing"); err == nil {
		t.Error("an unknown module was loaded")
	}
}
