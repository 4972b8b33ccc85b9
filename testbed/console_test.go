package testbed

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"
)

// A line that comes in pieces is found whole.
func TestConsoleWaitsForTheLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "console")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	go func() {
		for _, part := range []string{"imginit: BOOT ", "FAILED: no", " root"} {
			_, _ = f.WriteString(part)
			time.Sleep(3 * pollConsole / 2)
		}
	}()
	c := &Console{Path: file}
	re := regexp.MustCompile(`BOOT FAILED[^\r\n]*`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got, _, err := c.Wait(ctx, 0, re)
	if err != nil || got != "BOOT FAILED: no root" {
		t.Errorf("%q, %v", got, err)
	}
	over, stop := context.WithCancel(t.Context())
	stop()
	if got, _, err := c.Wait(over, 0, re); err != nil || got == "" {
		t.Errorf("what is there is found whatever the time: %q, %v", got, err)
	}
	if _, _, err := c.Wait(over, 0, regexp.MustCompile("nothing")); err == nil {
		t.Error("nothing was found")
	}
}
