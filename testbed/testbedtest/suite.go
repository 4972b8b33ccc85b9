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

// Driver is what the suite needs of a driver.
type Driver struct {
	// New makes a machine that is off and whose disk begins as the raw image.
	// dir is for the machine's files.
	New func(ctx context.Context, name, dir, image string) (testbed.Machine, error)
	// Disk makes the guest's raw disk; nil means Guest.BIOSDisk.
	Disk func(Guest) ([]byte, error)
	// Left lists what the driver still has of the machine called name. It must
	// be empty after Release. nil means that nobody can tell.
	Left func(name string) ([]string, error)
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
}

func (d Driver) image(t *testing.T, g Guest) string {
	t.Helper()
	disk := g.BIOSDisk()
	if d.Disk != nil {
		var err error
		if disk, err = d.Disk(g); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "image.raw")
	if err := os.WriteFile(path, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// machine makes a machine that is released, and checked to be gone, when the
// test ends.
func (d Driver) machine(t *testing.T, image string) testbed.Machine {
	t.Helper()
	name := nameOf(t)
	m, err := d.New(t.Context(), name, filepath.Join(t.TempDir(), name), image)
	if err != nil {
		t.Fatal(err)
	}
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
	return m
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
	must(t, "console", err)
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
		m, err := d.New(ctx, name, filepath.Join(t.TempDir(), name), image)
		if err == nil {
			err = m.PowerOn(ctx)
			if i > 0 && err != nil && !errors.Is(err, context.Canceled) {
				t.Errorf("PowerOn: %v; want the context's error", err)
			}
			must(t, "Release", m.Release(ctx)) // with the cancelled context
		} else if !errors.Is(err, context.Canceled) {
			t.Errorf("New cancelled after %v: %v; want the context's error", after*time.Millisecond, err)
		}
		cancel()
		d.gone(t, name)
	}
}
