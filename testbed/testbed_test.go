package testbed

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

func TestAccelerator(t *testing.T) {
	testenv.Need(t, "qemu-system-x86_64")
	start := time.Now()
	if !probe(TCG) {
		t.Error("the probe guest does not run under TCG, which works everywhere")
	}
	t.Logf("probe under TCG: %v", time.Since(start))
	if probe("no-such-accelerator") {
		t.Error("an unknown accelerator works")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := Accelerator(ctx); a != TCG {
		t.Errorf("Accelerator with a cancelled context = %q", a)
	}
	start = time.Now()
	a := Accelerator(t.Context())
	if d := time.Since(start); d > probeLimit+2*time.Second || a != KVM && a != TCG {
		t.Errorf("Accelerator = %q after %v", a, d)
	}
	if b := Accelerator(t.Context()); b != a {
		t.Errorf("Accelerator = %q, then %q", a, b)
	}
}

func TestConsole(t *testing.T) {
	c := &Console{Path: filepath.Join(t.TempDir(), "console")}
	if text, err := c.Text(); text != "" || err != nil {
		t.Errorf("Text without a file = %q, %v", text, err)
	}
	if mark, err := c.Mark(); mark != 0 || err != nil {
		t.Errorf("Mark without a file = %d, %v", mark, err)
	}
	write := func(s string) {
		f, err := os.OpenFile(c.Path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(s)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("one\r\n\x1b[2J\x1b[01;01Hlogin: ")
	got, mark, err := c.Wait(t.Context(), 0, regexp.MustCompile(`log.n:`))
	if got != "login:" || err != nil {
		t.Errorf("Wait = %q, %v", got, err)
	}
	late := time.AfterFunc(150*time.Millisecond, func() { write("\nagain login: ") })
	defer late.Stop()
	if _, _, err = c.Wait(t.Context(), mark, regexp.MustCompile(`login:`)); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	_, _, err = c.Wait(ctx, 0, regexp.MustCompile(`panic`))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasSuffix(err.Error(), "it ends:\n    one\n    login:\n    again login:") {
		t.Errorf("Wait = %v", err)
	}
}

func TestFirmware(t *testing.T) {
	if code, vars, err := BIOS.Files(); code != "" || vars != "" || err != nil {
		t.Errorf("BIOS = %q, %q, %v", code, vars, err)
	}
	if _, _, err := Firmware("x").Files(); command.Status(err) != command.StatusUsage {
		t.Errorf("unknown firmware: %v", err)
	}
}
