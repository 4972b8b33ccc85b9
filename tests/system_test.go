// Package tests runs the built programs against real machines: the system
// tier (-system, with -core for the part that continuous integration runs)
// and the torture tier (-torture N).
package tests

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/registry"
	"goldsmith/pipeline"
)

var (
	system  = flag.Bool("system", false, "run the system tier: boots machines")
	core    = flag.Bool("core", false, "run the part of the system tier that continuous integration runs")
	torture = flag.Int("torture", 0, "run the torture tier with this many rounds")
	seed    = flag.Uint64("seed", 1, "seed of the torture tier's random moments")
)

// records are those of a store's runs, oldest first, as imgpipe prints them.
func records(t testing.TB, dir string) []*pipeline.Run {
	t.Helper()
	out, err := exec.Command(built(t, "imgpipe"), "status", "--json", "-n", "1000", "--dir", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	var s struct{ Runs []*pipeline.Run }
	if err := json.Unmarshal(out, &s); err != nil || len(s.Runs) == 0 {
		t.Fatalf("no runs: %v\n%s", err, out)
	}
	return s.Runs
}

func statuses(r *pipeline.Run) string {
	var out []string
	for _, s := range r.Stages {
		out = append(out, s.Name+"="+string(s.Status))
	}
	return strings.Join(out, " ")
}

func tags(t *testing.T, dir string) map[string]string {
	t.Helper()
	l, err := registry.Open(filepath.Join(dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	tags, err := l.Tags()
	if err != nil {
		t.Fatal(err)
	}
	return tags
}

// A pipeline whose smoke test fails stops there, says why, moves no tag and
// ends with status 1; the image cannot be promoted by hand either.
func TestFailingPipeline(t *testing.T) {
	need(t, true)
	dir := t.TempDir()
	status, out := program{[]string{"imgpipe", "run", "--dir", dir, "testdata/failing/pipeline.yaml"}, []string{elements(t)}}.run(t)
	if status != 1 {
		t.Errorf("status %d; want 1", status)
	}
	for _, want := range []string{
		"smoke: test always-fails/90-always-fails failed",
		"promote skipped: smoke failed",
		"imgpipe: run 1: stage smoke failed: 6 passed, 1 failed: always-fails/90-always-fails: exit status 1: this test always fails",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	r := records(t, dir)[0]
	if got, want := statuses(r), "build=passed smoke=failed promote=skipped"; got != want {
		t.Errorf("stages: %s; want %s", got, want)
	}
	if got := tags(t, dir); len(got) > 0 {
		t.Errorf("tags moved: %v", got)
	}
	junit, _ := os.ReadFile(filepath.Join(dir, "runs/1/smoke/1/junit.xml"))
	if !bytes.Contains(junit, []byte(`tests="7" failures="1"`)) {
		t.Errorf("junit.xml:\n%s", junit)
	}
	for _, f := range []string{"console.log", "journal", "log"} {
		if fi, err := os.Stat(filepath.Join(dir, "runs/1/smoke/1", f)); err != nil || fi.Size() == 0 {
			t.Errorf("%s is missing or empty (%v)", f, err)
		}
	}
	status, out = program{[]string{"imgpipe", "promote", "--dir", dir, r.Stages[0].Image, "candidate"}, nil}.run(t)
	if status != 1 || !strings.Contains(out, "refused for candidate: failed evidence: libvirt-smoke") {
		t.Errorf("promotion by hand: status %d", status)
	}
}

// Stages are data: without the smoke stage there is no evidence, and the
// promotion is refused. Two builds, with nothing in common but the sources and
// the package archive, give the same image.
func TestUnprovenAndBuiltTwice(t *testing.T) {
	need(t, true)
	var images []string
	for i := range 2 {
		dir := t.TempDir()
		env := []string{"TMPDIR=" + t.TempDir()}
		if i == 1 {
			env = append(env, "XDG_CACHE_HOME="+t.TempDir(), "TZ=Asia/Tokyo", "HOSTNAME=elsewhere")
		}
		status, out := program{[]string{"imgpipe", "run", "--dir", dir, "testdata/unproven.yaml"}, env}.run(t)
		if status != 1 || !strings.Contains(out, "promote failed: ") || !strings.Contains(out, "missing evidence: libvirt-smoke") {
			t.Errorf("status %d; want a refusal", status)
		}
		if got := tags(t, dir); len(got) > 0 {
			t.Errorf("tags moved: %v", got)
		}
		r := records(t, dir)[0]
		images = append(images, r.Stages[0].Image)
	}
	if images[0] != images[1] || images[0] == "" {
		t.Errorf("two builds give %s and %s", images[0], images[1])
	}
}

// The record of a run is what docs/formats.md says.
func TestRunRecord(t *testing.T) {
	need(t, false)
	dir := t.TempDir()
	status, out := program{[]string{"imgpipe", "run", "--json", "--dir", dir, "../ci/demo/pipeline.yaml"}, nil}.run(t)
	if status != 0 {
		t.Fatalf("status %d", status)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var last struct {
		Event  string
		Result pipeline.Run
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || last.Event != "result" {
		t.Fatalf("the last line is no result: %v", err)
	}
	if got, want := statuses(&last.Result), "build=passed smoke=passed promote=passed staging=passed"; got != want {
		t.Errorf("stages: %s; want %s", got, want)
	}
	if got := tags(t, dir)["candidate"]; got != last.Result.Stages[0].Image {
		t.Errorf("candidate is %s; want %s", got, last.Result.Stages[0].Image)
	}
	for _, s := range last.Result.Stages {
		if _, err := os.Stat(filepath.Join(dir, "runs", last.Result.ID, s.Name, strconv.Itoa(len(s.Attempts)), "log")); err != nil {
			t.Error(err)
		}
	}
}

// Every output of a real image is what the field's own tools take it for, and
// the compressed disk boots as the raw one does.
func TestOutputs(t *testing.T) {
	need(t, false)
	dir := t.TempDir()
	demo, err := os.ReadFile("../ci/demo/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	def := filepath.Join(dir, "image.yaml")
	text := strings.Replace(string(demo), "outputs: [raw]", "outputs: [qcow2, raw, vhd, tar.zst, erofs]", 1)
	if err := os.WriteFile(def, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if status, _ := (program{[]string{"imgbuild", "build", "-o", dir, def}, nil}).run(t); status != 0 {
		t.Fatalf("status %d", status)
	}
	for _, args := range [][]string{
		{"qemu-img", "check", "demo.qcow2"},
		{"qemu-img", "compare", "demo.raw", "demo.qcow2"},
		{"qemu-img", "compare", "-f", "raw", "-F", "vpc", "demo.raw", "demo.vhd"},
		{"tar", "--zstd", "-tf", "demo.tar.zst", "./usr/share/goldsmith/manifest.json"},
		{"fsck.erofs", "demo.erofs"},
		{"sgdisk", "-v", "demo.raw"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	bootsToLogin(t, filepath.Join(dir, "demo.qcow2"))
}

// bootsToLogin starts an image with 'imgbuild run' and waits for its prompt.
func bootsToLogin(t *testing.T, image string) {
	t.Helper()
	console, err := os.Create(filepath.Join(t.TempDir(), "console"))
	if err != nil {
		t.Fatal(err)
	}
	defer console.Close()
	cmd, _ := program{[]string{"imgbuild", "run", image}, nil}.command(t)
	cmd.Stdout, cmd.Stderr = console, console
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	}()
	var text []byte
	for range 1800 {
		if text, err = os.ReadFile(console.Name()); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("login:")) {
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("it ended: %v\n%s", err, text)
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Errorf("no login prompt:\n%s", text)
}
