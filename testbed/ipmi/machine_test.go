package ipmi

import (
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"goldsmith/testbed"
	"goldsmith/testbed/testbedtest"
	"goldsmith/testbed/vbmc"
)

func TestBoot(t *testing.T) {
	t.Parallel()
	s := bootable{fake(t), &testbed.Boot{}}
	r := open(t, s)
	ctx := bounded(t)
	for _, b := range []testbed.Boot{
		{Device: testbed.FromNetwork, Once: true},
		{Device: testbed.FromDisk},
		{Device: testbed.FromCD, Once: true, Firmware: testbed.UEFI},
		{Device: testbed.FromSetup, Firmware: testbed.UEFI},
		{},
	} {
		if err := r.SetBoot(ctx, b); err != nil {
			t.Errorf("SetBoot(%+v): %v", b, err)
			continue
		}
		if got, err := r.BootOrder(ctx); got != b || err != nil {
			t.Errorf("BootOrder = %+v, %v; want %+v", got, err, b)
		}
		if got, _ := s.BootOrder(ctx); got != b {
			t.Errorf("the machine was told %+v; want %+v", got, b)
		}
	}
	once := testbed.Boot{Device: testbed.FromNetwork, Once: true}
	if err := r.SetBoot(ctx, once); err != nil {
		t.Fatal(err)
	}
	if err := r.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := r.BootOrder(ctx); got != (testbed.Boot{}) || err != nil {
		t.Errorf("BootOrder after the one start = %+v, %v", got, err)
	}
	r.set(t, vbmc.ForgetBoot)
	want(t, ctx, r.SetBoot(ctx, once), testbed.Unsupported, "did not keep them: nothing set, not device 1, once")
	r.set(t)
	want(t, ctx, r.SetBoot(ctx, testbed.Boot{Device: "tape"}), testbed.Unsupported, "tape")
	r.quirks.NoPersistent, r.quirks.NoUEFI = true, true
	want(t, ctx, r.SetBoot(ctx, testbed.Boot{Device: testbed.FromDisk}), testbed.Unsupported, "one start only")
	want(t, ctx, r.SetBoot(ctx, testbed.Boot{Device: testbed.FromDisk, Once: true, Firmware: testbed.UEFI}), testbed.Unsupported, "UEFI")
	r.quirks.Unreadable = true
	if _, err := r.BootOrder(ctx); kindOf(err) != testbed.Unsupported {
		t.Errorf("BootOrder = %v", err)
	}
}

// TestUEFIMachine: the flag goes along where the node is configured so, and is
// not told twice.
func TestUEFIMachine(t *testing.T) {
	t.Parallel()
	s := bootable{fake(t), &testbed.Boot{}}
	r := open(t, s)
	ctx := bounded(t)
	r.firmware, r.quirks.UEFIDisk = testbed.UEFI, 2
	b := testbed.Boot{Device: testbed.FromDisk, Once: true}
	if err := r.SetBoot(ctx, b); err != nil {
		t.Fatal(err)
	}
	if got, _ := s.BootOrder(ctx); got.Firmware != testbed.UEFI {
		t.Errorf("the machine was told %+v", got)
	}
	if got, err := r.BootOrder(ctx); got != b || err != nil {
		t.Errorf("BootOrder = %+v, %v; want %+v", got, err, b)
	}
}

// plainMachine hides what a machine can do but power.
type plainMachine struct{ testbed.Machine }

func TestUnsupported(t *testing.T) {
	t.Parallel()
	r := open(t, plainMachine{fake(t)})
	ctx := bounded(t)
	want(t, ctx, r.SetBoot(ctx, testbed.Boot{Device: testbed.FromDisk}), testbed.Unsupported, "not support")
	want(t, ctx, r.Recording(), testbed.Unsupported, "serial over LAN")
	if err := r.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	want(t, ctx, r.Shutdown(ctx), testbed.Unsupported, "0xcc")
	r.quirks.NoShutdown = true
	want(t, ctx, r.Shutdown(ctx), testbed.Unsupported, "power button")
	if err := r.Reset(ctx); err != nil { // off and on again
		t.Error(err)
	}
}

func TestResetAndCycle(t *testing.T) {
	t.Parallel()
	s := fake(t)
	r := open(t, s)
	ctx := bounded(t)
	if err := r.Reset(ctx); err == nil || !strings.Contains(err.Error(), "it is off") {
		t.Errorf("Reset while off = %v", err)
	}
	for n, f := range []func(context.Context) error{r.Cycle, r.Reset, r.Cycle} {
		if err := f(ctx); err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Console().Wait(ctx, 0, regexp.MustCompile("(?s)"+strings.Repeat("hello.*", n+1))); err != nil {
			t.Error(err)
		}
	}
}

func TestSensorsAndEvents(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	ctx := bounded(t)
	if e, err := r.HardwareEvents(ctx); len(e) != 0 || err != nil {
		t.Errorf("HardwareEvents of an empty log = %v, %v", e, err)
	}
	if err := r.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	sensors, err := r.Sensors(ctx)
	if err != nil || len(sensors) != 4 {
		t.Fatalf("Sensors = %v, %v; want 4", sensors, err)
	}
	fan := testbed.Sensor{Name: "Fan 1", Value: 4500, Unit: "RPM", State: "ok"}
	if sensors[2] != fan {
		t.Errorf("the fan is %+v; want %+v", sensors[2], fan)
	}
	var events []testbed.HardwareEvent
	for len(events) == 0 && err == nil && pause(ctx, 50*time.Millisecond) { // the BMC looks now and then
		events, err = r.HardwareEvents(ctx)
	}
	if err != nil || len(events) != 1 || events[0].ID != 1 || time.Since(events[0].Time) > time.Hour ||
		!strings.Contains(events[0].What, "S0") {
		t.Errorf("HardwareEvents = %+v, %v", events, err)
	}
	if err := r.ClearHardwareEvents(ctx); err != nil {
		t.Error(err)
	}
	if e, err := r.HardwareEvents(ctx); len(e) != 0 || err != nil {
		t.Errorf("HardwareEvents after clearing = %v, %v", e, err)
	}
}

// TestConsoleTaken: somebody else takes the console, which is said, and it is
// taken back after a while.
func TestConsoleTaken(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	ctx := bounded(t)
	if err := r.Recording(); err != nil {
		t.Fatal(err)
	}
	r.set(t, vbmc.StealConsole)
	_, mark, err := r.Console().Wait(ctx, 0, regexp.MustCompile(`\[goldsmith [^ ]+Z console lost: .*the BMC deactivated it \(stolen\)\]`))
	if err != nil {
		t.Fatal(err)
	}
	// Taken back by now or soon; in between the fault is told to who types.
	if _, err := r.OpenSerial(ctx); err != nil && kindOf(err) != testbed.Stolen {
		t.Errorf("OpenSerial = %v", err)
	}
	_, mark, err = r.Console().Wait(ctx, mark, regexp.MustCompile(`\[goldsmith [^ ]+Z console taken from another session\]`))
	if err != nil {
		t.Fatal(err)
	}
	r.set(t, vbmc.DropConsole)
	_, mark, err = r.Console().Wait(ctx, mark, regexp.MustCompile(`console connected; what was printed before is missing`))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Console().Wait(ctx, mark, regexp.MustCompile("hello")); err != nil {
		t.Error(err)
	}
	if err := r.Recording(); err != nil {
		t.Error(err)
	}
}

func TestTyping(t *testing.T) {
	t.Parallel()
	r := open(t, fake(t))
	ctx := bounded(t)
	if err := r.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Console().Wait(ctx, 0, regexp.MustCompile("hello")); err != nil {
		t.Fatal(err)
	}
	s, err := r.OpenSerial(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.OpenSerial(ctx); kindOf(err) != testbed.Stolen {
		t.Errorf("a second one may type: %v", err)
	}
	const text = "root\r~X secret\r"
	if _, err := io.WriteString(s, text); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(text))
	if _, err := io.ReadFull(s, b); err != nil || string(b) != text {
		t.Errorf("the echo is %q, %v; want %q", b, err, text)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Read(b); err != io.EOF {
		t.Errorf("Read after Close = %v", err)
	}
	if _, err := s.Write(b); err == nil {
		t.Error("Write after Close works")
	}
	if s, err = r.OpenSerial(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Console().Text(); err != nil || got != "hello"+text {
		t.Errorf("the console holds %q, %v", got, err)
	}
	done := make(chan error)
	go func() {
		_, err := s.Read(b)
		done <- err
	}()
	if err := r.Disconnect(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != io.EOF {
		t.Errorf("Read at the end of recording = %v", err)
	}
}

// TestReleased: nothing is asked of a machine that was given back, and it is
// off.
func TestReleased(t *testing.T) {
	t.Parallel()
	s := fake(t)
	r := open(t, s)
	if err := r.PowerOn(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := r.Machine.Release(ctx); err != nil {
			t.Errorf("Release: %v", err)
		}
	}
	if p, _ := s.Power(t.Context()); p != testbed.Off {
		t.Errorf("the machine is %v", p)
	}
	if _, err := r.Power(t.Context()); err == nil || !strings.Contains(err.Error(), "released") {
		t.Errorf("Power = %v", err)
	}
}

// TestOffAtOnce: a machine that prints something and is off before anybody asks
// was switched on all the same.
func TestOffAtOnce(t *testing.T) {
	t.Parallel()
	s := fakeGuest(t, testbedtest.Guest{Text: "bye", Off: true})
	r := open(t, s.Fake) // without the moment that a server stays on
	ctx := bounded(t)
	if err := r.PowerOn(ctx); err != nil {
		t.Error(err)
	}
	if err := r.WaitOff(ctx); err != nil {
		t.Error(err)
	}
}
