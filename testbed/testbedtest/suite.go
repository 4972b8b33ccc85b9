// Package testbedtest is the one suite that every driver of package testbed
// must pass, and a fake machine that passes it too.
//
// A driver's test calls [Run] with a way to make machines. The suite asks
// each machine what it can do and tests that. Its guests are a few bytes of
// machine code that print a line and can switch the machine off, see [Guest]:
// nothing is downloaded and a test takes a second or two.
package testbedtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"goldsmith/testbed"
)

// Driver is what the suite needs of a driver. A driver that makes no machines,
// because it only reaches those that are there, gives a New that makes one by
// other means and has the driver reach it.
type Driver struct {
	// New makes a machine that is off and whose disk begins as the raw image.
	// dir is for the machine's files. It may be nil when NewWith is not.
	New func(ctx context.Context, name, dir, image string) (testbed.Machine, error)
	// NewWith makes a machine that is off, of several parts; nil means that the
	// driver cannot.
	NewWith func(context.Context, Spec) (testbed.Machine, error)
	// Disk makes the guest's raw disk, CD its CD; nil means Guest.BIOSDisk and
	// Guest.BIOSCD.
	Disk func(Guest) ([]byte, error)
	CD   func(Guest) ([]byte, error)
	// ShellDisk makes a raw disk with a guest that has a root shell on its serial
	// port, and QEMU's agent where machines run code: LinuxDisk, or FakeShellDisk
	// for machines that act out guests. nil means that no command is run.
	ShellDisk func(*testing.T) string
	// Left lists what the driver still has of the machine called name. It must
	// be empty after Release. nil means that nobody can tell.
	Left func(name string) ([]string, error)
}

// Spec is a machine of several parts.
type Spec struct {
	Name  string
	Dir   string   // for the machine's files
	Disks []string // raw images, which are only read; it starts from the first
	CD    string   // the image in its CD-ROM drive; "" means that it has none
}

// patience bounds each wait for a guest, which takes about a second on an
// idle host.
const patience = 60 * time.Second

// Run tests a driver.
func Run(t *testing.T, d Driver) {
	t.Run("Power", d.testPower)
	t.Run("Console", d.testConsole)
	t.Run("SwitchesOff", d.testSwitchesOff)
	t.Run("Shutdown", d.testShutdown)
	t.Run("ImageUnchanged", d.testImageUnchanged)
	t.Run("Cancel", d.testCancel)
	t.Run("Reset", d.testReset)
	t.Run("Serial", d.testSerial)
	t.Run("Disks", d.testDisks)
	t.Run("BootOnce", d.testBootOnce)
	t.Run("BootOnceReset", d.testBootOnceReset)
	t.Run("BootForGood", d.testBootForGood)
	t.Run("Address", d.testAddress)
	t.Run("Shell", d.testShell)
}

// image makes a disk with the guest.
func (d Driver) image(t *testing.T, g Guest) string {
	t.Helper()
	if d.Disk == nil {
		return file(t, g.BIOSDisk(), nil)
	}
	b, err := d.Disk(g)
	return file(t, b, err)
}

// cd makes a CD with the guest.
func (d Driver) cd(t *testing.T, g Guest) string {
	t.Helper()
	if d.CD == nil {
		return file(t, g.BIOSCD(), nil)
	}
	b, err := d.CD(g)
	return file(t, b, err)
}

func file(t *testing.T, image []byte, err error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.raw")
	if err := errors.Join(err, os.WriteFile(path, image, 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// make makes a machine of one disk.
func (d Driver) make(ctx context.Context, name, dir, image string) (testbed.Machine, error) {
	if d.New == nil {
		return d.NewWith(ctx, Spec{Name: name, Dir: dir, Disks: []string{image}})
	}
	return d.New(ctx, name, dir, image)
}

// machine makes a machine that is released, and checked to be gone, when the
// test ends.
func (d Driver) machine(t *testing.T, image string) testbed.Machine {
	t.Helper()
	name := nameOf(t)
	m, err := d.make(t.Context(), name, filepath.Join(t.TempDir(), name), image)
	if err != nil {
		t.Fatal(err)
	}
	d.keep(t, m, name)
	return m
}

// keep has the machine released, and checked to be gone, when the test ends.
func (d Driver) keep(t *testing.T, m testbed.Machine, name string) {
	t.Helper()
	if m.Name() != name {
		t.Errorf("Name = %q; want %q", m.Name(), name)
	}
	t.Cleanup(func() {
		for range 2 { // the second time does nothing
			if err := m.Release(context.Background()); err != nil {
				t.Errorf("Release: %v", err)
			}
		}
		d.gone(t, name)
	})
}

func (d Driver) gone(t *testing.T, name string) {
	t.Helper()
	if d.Left == nil {
		return
	}
	left, err := d.Left(name)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
}

func nameOf(t *testing.T) string {
	return strings.ToLower(regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-"))
}

func power(t *testing.T, m testbed.Machine, want testbed.Power) {
	t.Helper()
	if got, err := m.Power(t.Context()); err != nil || got != want {
		t.Errorf("Power = %v, %v; want %v", got, err, want)
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// see waits for text on the console after mark and returns the mark after it.
// For a machine without console it only waits a moment.
func see(t *testing.T, m testbed.Machine, mark int64, text string) int64 {
	t.Helper()
	c, ok := m.(testbed.Consoled)
	if !ok {
		return mark
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, next, err := c.Console().Wait(ctx, mark, regexp.MustCompile(regexp.QuoteMeta(text)))
	if err != nil {
		p, perr := m.Power(t.Context())
		t.Fatalf("console: %v; the machine is %v (%v)", err, p, perr)
	}
	return next
}

func (d Driver) testPower(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "hello"}))
	power(t, m, testbed.Off)
	must(t, "PowerOff while off", m.PowerOff(t.Context()))
	for range 2 {
		must(t, "PowerOn", m.PowerOn(t.Context()))
		power(t, m, testbed.On)
	}
	for range 2 {
		must(t, "PowerOff", m.PowerOff(t.Context()))
		power(t, m, testbed.Off)
	}
	must(t, "PowerOn after PowerOff", m.PowerOn(t.Context()))
	power(t, m, testbed.On)
	// It is released while it runs.
}

func (d Driver) testConsole(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "first light\r\n"}))
	c, ok := m.(testbed.Consoled)
	if !ok {
		t.Skip("the driver has no console")
	}
	must(t, "PowerOn", m.PowerOn(t.Context()))
	mark := see(t, m, 0, "first light")
	must(t, "PowerOff", m.PowerOff(t.Context()))
	must(t, "PowerOn", m.PowerOn(t.Context()))
	see(t, m, mark, "first light")
	text, err := c.Console().Text()
	if n := strings.Count(text, "first light"); err != nil || n != 2 {
		t.Errorf("the console shows two boots %d times (%v):\n%s", n, err, text)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, _, err = c.Console().Wait(ctx, 0, regexp.MustCompile("never"))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "first light") {
		t.Errorf("Wait = %v; want a deadline and the last lines", err)
	}
}

func (d Driver) testSwitchesOff(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "bye", Off: true}))
	w, ok := m.(testbed.OffWaiter)
	if !ok {
		t.Skip("the driver does not see a machine switch off")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, "WaitOff before it was on", w.WaitOff(ctx))
	must(t, "PowerOn", m.PowerOn(ctx))
	must(t, "WaitOff", w.WaitOff(ctx))
	power(t, m, testbed.Off)
	see(t, m, 0, "bye")
}

func (d Driver) testShutdown(t *testing.T) {
	m := d.machine(t, d.image(t, Guest{Text: "ready"}))
	s, ok := m.(testbed.Shutdowner)
	if !ok {
		t.Skip("the driver cannot shut down")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, "PowerOn", m.PowerOn(ctx))
	see(t, m, 0, "ready")
	must(t, "Shutdown", s.Shutdown(ctx))
	power(t, m, testbed.Off)
	must(t, "Shutdown while off", s.Shutdown(ctx))
}

func (d Driver) testImageUnchanged(t *testing.T) {
	image := d.image(t, Guest{Text: "writes", Off: true})
	before, err := os.ReadFile(image)
	must(t, "image", err)
	m := d.machine(t, image)
	must(t, "PowerOn", m.PowerOn(t.Context()))
	see(t, m, 0, "writes")
	if w, ok := m.(testbed.OffWaiter); ok {
		must(t, "WaitOff", w.WaitOff(t.Context()))
	}
	if after, err := os.ReadFile(image); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the image was changed (%v)", err)
	}
}

// testCancel ends the context at several moments of making and starting a
// machine: either there is no machine and nothing of it, or one that works.
func (d Driver) testCancel(t *testing.T) {
	image := d.image(t, Guest{Text: "x"})
	for i, after := range []time.Duration{0, 10, 30, 60, 120, 300} {
		name := nameOf(t)
		ctx, cancel := context.WithTimeoutCause(context.Background(), after*time.Millisecond, context.Canceled)
		m, err := d.make(ctx, name, filepath.Join(t.TempDir(), name), image)
		if err == nil {
			err = m.PowerOn(ctx)
			if i > 0 && err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ctx.Err()) {
				t.Errorf("PowerOn: %v; want the context's error", err)
			}
			must(t, "Release", m.Release(ctx)) // with the cancelled context
		} else if !errors.Is(err, context.Canceled) && !errors.Is(err, ctx.Err()) {
			t.Errorf("New cancelled after %v: %v; want the context's error", after*time.Millisecond, err)
		}
		cancel()
		d.gone(t, name)
	}
}
