package disk

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/tree"
)

// A real root file system, to write (and look at, and boot) a real disk:
//
//	go test ./internal/disk -run TestImage -v -image /path/to/root -out disk.raw
var (
	imageDir     = flag.String("image", "", "directory with a root file system to make a disk of")
	imageVersion = flag.String("image-version", "1", "version of the image")
	imageOut     = flag.String("out", "", "where the disk goes; default a temporary directory")
)

// buildInit compiles imginit as images carry it.
func buildInit(t *testing.T) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "imginit")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", out, "goldsmith/cmd/imginit")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build imginit: %v\n%s", err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// cpuTime is what this process used so far.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestImage(t *testing.T) {
	if *imageDir == "" {
		t.Skip("no -image given")
	}
	root, err := tree.FromDir(*imageDir)
	if err != nil {
		t.Fatal(err)
	}
	out := *imageOut
	if out == "" {
		out = filepath.Join(t.TempDir(), "disk.raw")
	}
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	init := buildInit(t)
	before, began := cpuTime(t), time.Now()
	l, err := Write(t.Context(), f, Config{
		Name: "demo", Version: *imageVersion, Root: root, Init: init, Time: time.Unix(1700000000, 0).UTC(),
	})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := json.MarshalIndent(l, "", "  ")
	wall, cpu := time.Since(began), cpuTime(t)-before
	r, err := Inspect(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Packages) == 0 || len(r.Notes) != 0 || len(r.Partitions) != 7 {
		t.Errorf("Inspect: %d packages, %d partitions, notes %q", len(r.Packages), len(r.Partitions), r.Notes)
	}
	r.Packages, r.OS = r.Packages[:1], nil
	report, _ := json.MarshalIndent(r, "", "  ")
	t.Logf("inspected\n%s", report)
	t.Logf("written in %.2f s, %.2f s of CPU time\n%s", wall.Seconds(), cpu.Seconds(), text)
}
