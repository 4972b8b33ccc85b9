// Package tests runs the built programs against real machines: the system
// tier (-system, with -core for the part that continuous integration runs)
// and the torture tier (-torture N).
package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
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

// need skips the test unless its tier was asked for.
func need(t *testing.T, inCore bool) {
	t.Helper()
	if !*system && (!*core || !inCore) {
		t.Skip("system tier: make system-test")
	}
	ready(t)
}

// rounds skips a test outside of the torture tier, and is how many rounds that
// has.
func rounds(t *testing.T) int {
	t.Helper()
	if *torture == 0 {
		t.Skip("torture tier: make torture N=…")
	}
	ready(t)
	return *torture
}

// built is the path of a program that "make build" made; "" is where they are.
func built(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("../bin", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// ready checks what every tier but the fast one needs.
func ready(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this tier needs root")
	}
	if _, err := os.Stat("../bin/imgpipe"); err != nil {
		t.Fatal("../bin/imgpipe is not there: make build")
	}
}

// program is one run of a built program.
type program struct {
	args []string
	env  []string
}

// run returns the exit status and what was printed.
func (p program) run(t *testing.T) (int, string) {
	t.Helper()
	cmd, out := p.command(t)
	err := cmd.Run()
	t.Logf("%s\n%s", strings.Join(p.args, " "), out)
	ee, exited := errors.AsType[*exec.ExitError](err)
	if err != nil && !exited {
		t.Fatal(err)
	}
	if exited {
		return ee.ExitCode(), out.String()
	}
	return 0, out.String()
}

func (p program) command(t *testing.T) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(built(t, p.args[0]), p.args[1:]...)
	cmd.Env = append(os.Environ(), p.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

func elements(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("testdata/elements")
	if err != nil {
		t.Fatal(err)
	}
	return "ELEMENTS_PATH=" + dir
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
		"imgpipe: run 1: stage smoke failed: 5 passed, 1 failed: always-fails/90-always-fails: exit status 1: this test always fails",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	r, err := pipeline.ReadRun(dir, "1")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := statuses(r), "build=passed smoke=failed promote=skipped"; got != want {
		t.Errorf("stages: %s; want %s", got, want)
	}
	if got := tags(t, dir); len(got) > 0 {
		t.Errorf("tags moved: %v", got)
	}
	junit, _ := os.ReadFile(filepath.Join(dir, "runs/1/smoke/1/junit.xml"))
	if !bytes.Contains(junit, []byte(`tests="6" failures="1"`)) {
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
		r, err := pipeline.ReadRun(dir, "1")
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, r.Stages[0].Image)
	}
	if images[0] != images[1] || images[0] == "" {
		t.Errorf("two builds give %s and %s", images[0], images[1])
	}
}

// Whenever a run is interrupted or killed, nothing of it keeps running, no
// tag moves, and the next run cleans up and tells what became of it.
func TestInterruptAtAnyMoment(t *testing.T) {
	need(t, true)
	rounds := 2
	if *system {
		rounds = 4
	}
	interrupts(t, rounds)
}

func TestTortureInterrupts(t *testing.T) {
	interrupts(t, rounds(t))
}

func interrupts(t *testing.T, rounds int) {
	// The same moments for the same seed: between the start and what is the
	// middle of a boot on a slow machine.
	rnd := rand.New(rand.NewPCG(*seed, 0))
	longest := 40 * time.Second
	dir := t.TempDir()
	for i := 0; i < rounds; {
		signal := []syscall.Signal{syscall.SIGINT, syscall.SIGKILL}[i%2]
		moment := time.Second + time.Duration(rnd.Int64N(int64(longest)))
		if !interrupt(t, dir, i, signal, moment) {
			longest = moment / 2 // this machine is quicker than that
			dir = t.TempDir()
			continue
		}
		i++
	}
	afterwards(t, dir)
}

// interrupt starts a run, sends it the signal after a while, and checks that
// nothing is left. It is false when the run had ended by then.
func interrupt(t *testing.T, dir string, round int, signal syscall.Signal, moment time.Duration) bool {
	t.Helper()
	mark := fmt.Sprintf("GOLDSMITH_TEST_MARK=%d-%d", os.Getpid(), round)
	cmd, out := program{[]string{"imgpipe", "run", "--dir", dir, "../ci/demo/pipeline.yaml"}, []string{mark}}.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-ended:
		return false
	case <-time.After(moment):
	}
	if len(leftovers(t, mark, dir)) == 0 {
		t.Fatal("a running pipeline has no processes: this test sees nothing")
	}
	if err := cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatalf("%s after %s: still there a minute later\n%s", signal, moment, out)
	}
	status := cmd.ProcessState.ExitCode()
	t.Logf("round %d: %s after %.1f s, gone after %.1f s, status %d", round, signal, moment.Seconds(), time.Since(asked).Seconds(), status)
	if signal == syscall.SIGINT && status != 130 {
		t.Errorf("%s after %s: status %d; want 130\n%s", signal, moment, status, out)
	}
	checkGone(t, mark, dir)
	if got := tags(t, dir); len(got) > 0 {
		t.Errorf("tags moved: %v", got)
	}
	return true
}

// afterwards checks what the next run makes of those that were stopped.
func afterwards(t *testing.T, dir string) {
	t.Helper()
	// The kernel closes a killed process's files a moment after its memory is
	// gone; until then its locks say that it lives.
	time.Sleep(time.Second)
	// A run that fails early is enough to see what became of the others.
	program{[]string{"imgpipe", "run", "--dir", dir, "testdata/unproven.yaml"}, nil}.run(t)
	runs, err := pipeline.Runs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range runs[:len(runs)-1] {
		if r.Status != pipeline.Interrupted {
			t.Errorf("run %s is %s; want interrupted", r.ID, r.Status)
		}
	}
	for _, pattern := range []string{"build-*", "smoke-*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
			t.Errorf("left in the store: %v", left)
		}
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "goldsmith", "work", "build-*")); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

// leftovers lists what a run could leave on this machine: processes that
// carry its mark in their environment or use its directory, and mounts of it.
// Other runs on the same machine do not count.
func leftovers(t *testing.T, mark, dir string) []string {
	t.Helper()
	var found []string
	procs, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range procs {
		cmdline, err1 := os.ReadFile(filepath.Join(p, "cmdline"))
		environ, err2 := os.ReadFile(filepath.Join(p, "environ"))
		if err1 != nil || err2 != nil {
			continue // it ended meanwhile
		}
		if bytes.Contains(environ, []byte(mark)) || bytes.Contains(cmdline, []byte(dir)) {
			found = append(found, filepath.Base(p)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(mounts)) {
		if strings.Contains(l, dir) {
			found = append(found, l)
		}
	}
	return found
}

// checkGone waits a moment for what a killed run had started to end.
func checkGone(t *testing.T, mark, dir string) {
	t.Helper()
	var left []string
	for range 50 {
		if left = leftovers(t, mark, dir); len(left) == 0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
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
	if got, want := statuses(&last.Result), "build=passed smoke=passed promote=passed"; got != want {
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
