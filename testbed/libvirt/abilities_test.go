package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/go-cmp/cmp"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
)

// imagesPool makes a storage pool in a bed.
func imagesPool(t *testing.T, b *Bed) golibvirt.StoragePool {
	t.Helper()
	p, err := b.l.StoragePoolCreateXML(fmt.Sprintf(`<pool type='dir'><name>images</name><target><path>%s</path></target></pool>`, t.TempDir()), 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func volumes(t *testing.T, b *Bed, p golibvirt.StoragePool) []string {
	t.Helper()
	vols, _, err := b.l.StoragePoolListAllVolumes(p, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range vols {
		names = append(names, v.Name)
	}
	slices.Sort(names) // libvirtd has no order
	return names
}

// TestPool: images are copied to a pool, which holds nothing of a machine that
// was released, nor of one whose owner is dead.
func TestPool(t *testing.T) {
	t.Parallel()
	b := bed(t)
	p := imagesPool(t, b)
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	disk := testbedtest.Guest{Text: "disks: ", Count: true, Off: true}.BIOSDisk()
	writeFile(t, image, disk)
	c := Config{Name: "a", Dir: filepath.Join(dir, "a"), Image: image, DiskSize: 2 << 20, Disks: []Disk{{Size: 3 << 20}},
		Firmware: testbed.BIOS, CPUs: 1, MemoryMiB: 64, Accelerator: testbed.TCG, Pool: "images"}
	m, err := b.Define(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"goldsmith-a_vda", "goldsmith-a_vdb"}, volumes(t, b, p)); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := errors.Join(m.PowerOn(ctx), m.WaitOff(ctx)); err != nil {
		t.Error(err)
	}
	if text, _ := m.Console().Text(); !strings.Contains(text, "disks: 2") {
		t.Errorf("console: %q", text)
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(after, disk) {
		t.Errorf("the image was changed (%v)", err)
	}
	if err := m.Release(ctx); err != nil {
		t.Error(err)
	}
	if v := volumes(t, b, p); len(v) > 0 {
		t.Errorf("after Release: %v", v)
	}

	// As a dead owner leaves it, even in the middle of an upload.
	other, err := b.Define(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	other.endWatch()
	desc, err := b.l.DomainGetXMLDesc(other.dom, golibvirt.DomainXMLInactive)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.l.DomainDefineXML(strings.ReplaceAll(desc, b.Host.owner.lockPath(), filepath.Join(dir, "nobody"))); err != nil {
		t.Fatal(err)
	}
	if err := b.Sweep(ctx); err != nil {
		t.Error(err)
	}
	if v := volumes(t, b, p); len(v) > 0 {
		t.Errorf("after Sweep: %v", v)
	}
	if left, _ := leftOf(b.Host, "a"); len(left) > 0 {
		t.Errorf("after Sweep: %v", left)
	}
	c.Pool = "none"
	if _, err := b.Define(ctx, c); err == nil || !strings.Contains(err.Error(), "storage pool none") {
		t.Errorf("Define without the pool: %v", err)
	}
	if left, _ := leftOf(b.Host, "a"); len(left) > 0 {
		t.Errorf("after a Define that failed: %v", left)
	}
}

// TestAdopt: what was adopted can be used, and Release leaves it as it was, also what it starts
// from, however that was said.
func TestAdopt(t *testing.T) {
	t.Parallel()
	b := bed(t)
	if _, err := b.Adopt(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), `no domain "nobody"`) {
		t.Errorf("Adopt = %v; want that it is not there", err)
	}
	dom, err := b.l.DomainDefineXML(`<domain type='qemu'><name>theirs</name><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='network'/><boot dev='hd'/></os><features><acpi/></features><devices>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<interface type='network'><mac address='52:54:00:78:00:fe'/><source network='goldsmith'/><model type='virtio'/></interface>
<serial type='pty'/></devices></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.Adopt(t.Context(), "theirs")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.PowerOn(t.Context()), a.SetBoot(t.Context(), testbed.Boot{Device: testbed.FromCD})); err != nil {
		t.Fatal(err)
	}
	places := func() map[string]int {
		desc, err := b.l.DomainGetXMLDesc(dom, golibvirt.DomainXMLInactive)
		if err != nil {
			t.Fatal(err)
		}
		l, err := readLayout(desc)
		if err != nil {
			t.Fatal(err)
		}
		p := map[string]int{}
		for _, d := range l.Devices {
			p[d.Key] = d.Order
		}
		return p
	}
	if diff := cmp.Diff(map[string]int{"sda": 1, "52:54:00:78:00:fe": 2}, places()); diff != "" {
		t.Errorf("from the CD (-want +got):\n%s", diff)
	}
	if f, ok := errors.AsType[*testbed.Fault](a.SetBoot(t.Context(), testbed.Boot{Device: testbed.FromDisk})); !ok || f.Kind != testbed.Unsupported {
		t.Errorf("from a disk that is not there: %v", f)
	}
	if err := a.Reset(t.Context()); err != nil {
		t.Error(err)
	}
	port, err := a.OpenSerial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.OpenSerial(t.Context())
	if f, ok := errors.AsType[*testbed.Fault](err); !ok || f.Kind != testbed.Stolen {
		t.Errorf("OpenSerial a second time: %v; want stolen", err)
	}
	if err := port.Close(); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := a.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if diff := cmp.Diff(map[string]int{"sda": 0, "52:54:00:78:00:fe": 1}, places()); diff != "" {
		t.Errorf("after Release (-want +got):\n%s", diff)
	}
	if p, err := a.Power(t.Context()); err != nil || p != testbed.On {
		t.Errorf("Power = %v, %v; want on", p, err)
	}
}

func TestRewrite(t *testing.T) {
	const desc = `<domain><os><boot dev='hd'/><boot dev='network'/></os><devices>
<disk device='disk'><target dev='vda'/></disk>
<disk device='disk'><boot order='9'/><target dev='vdb'/><readonly/></disk>
<disk device='cdrom'><target dev='sda'/></disk>
<disk><target dev='vdc'/></disk>
<interface><mac address='m0'/><rom enabled='no'/></interface>
<interface><mac address='m1'/></interface></devices></domain>`
	l, err := readLayout(desc)
	if err != nil {
		t.Fatal(err)
	}
	for kind, want := range map[testbed.Device]map[string]int{
		"":                  {"vda": 1, "vdc": 2, "m1": 3},
		testbed.FromNetwork: {"m1": 1, "vda": 2, "vdc": 3},
		testbed.FromCD:      {"sda": 1, "vda": 2, "vdc": 3, "m1": 4},
	} {
		places := orders(l.Devices, kind)
		if diff := cmp.Diff(want, places); diff != "" {
			t.Errorf("%q first (-want +got):\n%s", kind, diff)
		}
		text := l.rewrite(desc, places)
		again, err := readLayout(text)
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
		if diff := cmp.Diff(want, orders(again.Devices, "")); diff != "" {
			t.Errorf("%q first, read again (-want +got):\n%s\n%s", kind, diff, text)
		}
		if strings.Contains(text, "boot dev") {
			t.Errorf("two orders in %s", text)
		}
	}
}

func FuzzLayout(f *testing.F) {
	f.Add(`<domain><os><boot dev='hd'/></os><devices><disk><target dev='vda'/></disk></devices></domain>`)
	f.Fuzz(func(t *testing.T, desc string) {
		l, err := readLayout(desc)
		if err != nil {
			return
		}
		places := orders(l.Devices, testbed.FromNetwork)
		_ = l.rewrite(desc, places)
	})
}
