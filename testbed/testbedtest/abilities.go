package testbedtest

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/testbed"
)

// special makes a machine by NewWith, or skips the test.
func (d Driver) special(t *testing.T, s Spec) testbed.Machine {
	t.Helper()
	if d.NewWith == nil {
		t.Skip("the driver makes machines of one disk only")
	}
	s.Name = nameOf(t)
	s.Dir = filepath.Join(t.TempDir(), s.Name)
	m, err := d.NewWith(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	d.keep(t, m, s.Name)
	return m
}

// ask skips the test where the driver says that it cannot do this.
func ask(t *testing.T, what string, err error) {
	t.Helper()
	if f, ok := errors.AsType[*testbed.Fault](err); ok && f.Kind == testbed.Unsupported {
		t.Skipf("%s: %v", what, err)
	}
	must(t, what, err)
}

// selector is a machine with a guest on its disk and one on its CD.
func (d Driver) selector(t *testing.T, cd Guest) (testbed.Machine, testbed.BootSelector) {
	t.Helper()
	m := d.special(t, Spec{Disks: []string{d.image(t, Guest{Text: "from the disk\r\n"})}, CD: d.cd(t, cd)})
	b, ok := m.(testbed.BootSelector)
	if !ok {
		t.Skip("the driver cannot choose what a machine starts from")
	}
	return m, b
}

func order(t *testing.T, b testbed.BootSelector, want testbed.Boot) {
	t.Helper()
	got, err := b.BootOrder(t.Context())
	if f, ok := errors.AsType[*testbed.Fault](err); ok && f.Kind == testbed.Unsupported {
		return
	}
	got.Firmware = want.Firmware
	if err != nil || got != want {
		t.Errorf("BootOrder = %+v, %v; want %+v", got, err, want)
	}
}

// starts switches the machine on and off and sees what it printed.
func starts(t *testing.T, m testbed.Machine, mark int64, text string) int64 {
	t.Helper()
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark = see(t, m, mark, text)
	must(t, "PowerOff", m.PowerOff(t.Context()))
	return mark
}

func (d Driver) testBootOnce(t *testing.T) {
	m, b := d.selector(t, Guest{Text: "from the CD\r\n"})
	order(t, b, testbed.Boot{})
	once := testbed.Boot{Device: testbed.FromCD, Once: true}
	ask(t, "SetBoot", b.SetBoot(t.Context(), once))
	order(t, b, once)
	mark := starts(t, m, 0, "from the CD")
	order(t, b, testbed.Boot{})
	starts(t, m, mark, "from the disk")
}

// testBootOnceReset is how a machine is deployed: it starts once from
// something else, which then resets it.
func (d Driver) testBootOnceReset(t *testing.T) {
	m, b := d.selector(t, Guest{Text: "from the CD\r\n", Reset: true})
	ask(t, "SetBoot", b.SetBoot(t.Context(), testbed.Boot{Device: testbed.FromCD, Once: true}))
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark := see(t, m, 0, "from the CD")
	see(t, m, mark, "from the disk")
	power(t, m, testbed.On)
	order(t, b, testbed.Boot{})
}

func (d Driver) testBootForGood(t *testing.T) {
	m, b := d.selector(t, Guest{Text: "from the CD\r\n"})
	good := testbed.Boot{Device: testbed.FromCD}
	ask(t, "SetBoot", b.SetBoot(t.Context(), good))
	mark := starts(t, m, 0, "from the CD")
	order(t, b, good)
	mark = starts(t, m, mark, "from the CD")
	must(t, "SetBoot", b.SetBoot(t.Context(), testbed.Boot{}))
	order(t, b, testbed.Boot{})
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark = see(t, m, mark, "from the disk")
	r, ok := m.(testbed.Resetter)
	if !ok {
		return
	}
	// What is told while the machine is on counts from the next start.
	must(t, "SetBoot while on", b.SetBoot(t.Context(), testbed.Boot{Device: testbed.FromCD, Once: true}))
	must(t, "Reset", r.Reset(t.Context()))
	mark = see(t, m, mark, "from the CD")
	must(t, "Reset", r.Reset(t.Context()))
	see(t, m, mark, "from the disk")
}

func (d Driver) testReset(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "up\r\n"}))
	r, ok := m.(testbed.Resetter)
	if !ok {
		t.Skip("the driver cannot reset")
	}
	if err := r.Reset(t.Context()); err == nil {
		t.Error("Reset of a machine that is off: no error")
	}
	power(t, m, testbed.Off)
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark := int64(0)
	for range 2 {
		mark = see(t, m, mark, "up")
		must(t, "Reset", r.Reset(t.Context()))
		power(t, m, testbed.On)
	}
	see(t, m, mark, "up")
}

func (d Driver) testSerial(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "type something\r\n"}))
	s, ok := m.(testbed.Serial)
	if !ok {
		t.Skip("the driver has no serial port")
	}
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark := see(t, m, 0, "type something")
	port, err := s.OpenSerial(t.Context())
	ask(t, "OpenSerial", err)
	watchdog := time.AfterFunc(patience, func() { _ = port.Close() })
	defer watchdog.Stop()
	if _, err := port.Write([]byte("abc\r")); err != nil {
		t.Fatal(err)
	}
	var seen strings.Builder
	for b := make([]byte, 64); !strings.Contains(seen.String(), "abc\r"); {
		n, err := port.Read(b)
		seen.Write(b[:n])
		if err != nil {
			t.Fatalf("the port shows no echo: %v; it shows %q", err, seen.String())
		}
	}
	see(t, m, mark, "abc")
	for range 2 {
		must(t, "Close", port.Close())
	}
	if n, err := port.Read(make([]byte, 1)); err == nil && n > 0 {
		t.Error("a closed port can be read")
	}
	power(t, m, testbed.On)
}

// testDisks: every disk is there. Only the BIOS guest can count them.
func (d Driver) testDisks(t *testing.T) {
	if d.Disk != nil {
		t.Skip("the guest counts disks under BIOS only")
	}
	g := Guest{Text: "disks: ", Count: true, Off: true}
	m := d.special(t, Spec{Disks: []string{d.image(t, g), d.image(t, g), d.image(t, g)}})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, "PowerOn", m.PowerOn(ctx))
	see(t, m, 0, "disks: 3")
}
