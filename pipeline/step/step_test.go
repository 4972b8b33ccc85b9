package step

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/store/storetest"
	"goldsmith/internal/testenv"
	"goldsmith/pipeline"
	"goldsmith/testbed/libvirt"
	"goldsmith/testbed/testbedtest"
)

func TestMain(m *testing.M) {
	libvirt.Init()
	// A connection of net/http lingers for half a second after its last answer.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).serve"))
}

// store returns a store that holds the image of a tiny guest, and its digest.
func store(t *testing.T, text string) (*Store, string) {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	disk := testbedtest.Guest{Text: text}.BIOSDisk()
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(disk)
	digest, _, err := s.Images.PutImage(t.Context(), path, registry.Image{
		Name: "tiny", Version: "1", Arch: "amd64", Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s, digest
}

// load reads a pipeline from text and makes its steps.
func load(t *testing.T, s *Store, text string) (*pipeline.Pipeline, map[string]pipeline.Step, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: goldsmith/v1\nname: t\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := pipeline.Load(file, Names())
	if err != nil {
		t.Fatal(err)
	}
	steps, err := New(Env{Store: s, DB: storetest.Open(t, storetest.Where(t, "sqlite")), Elements: element.Path{}, File: "p.yaml"}, p)
	if err != nil {
		err = errors.New(strings.ReplaceAll(err.Error(), file, "p.yaml"))
	}
	return p, steps, err
}

func job(t *testing.T, image string) *pipeline.Job {
	t.Helper()
	p := command.NewProgress("test", command.IO{Stdout: io.Discard, Stderr: new(bytes.Buffer)}, false)
	t.Cleanup(p.Close)
	return &pipeline.Job{Run: "1", Stage: "s", Attempt: 1, Dir: t.TempDir(), Image: image, Log: new(bytes.Buffer), Progress: p}
}

func TestParameters(t *testing.T) {
	s, _ := store(t, "x")
	for text, want := range map[string]string{
		"stages:\n- {name: s, uses: build}":                                                                  "p.yaml:4: stage s: with.definition is missing: name the image definition to build",
		"stages:\n- {name: s, uses: build, with: {definition: no.yaml}}":                                     "p.yaml:4: stage s: image definition no.yaml is not there",
		"stages:\n- name: s\n  uses: smoke\n  with:\n    machin: libvirt":                                    `p.yaml:7: unknown field "machin"`,
		"stages:\n- {name: s, uses: smoke, with: {snoozes: nothere.yaml}}":                                   `nothere.yaml: no such file`,
		"stages:\n- {name: s, uses: smoke, with: {machine: cloud}}":                                          `p.yaml:4: stage s: with.machine "cloud": expected libvirt or metal`,
		"stages:\n- {name: s, uses: smoke, with: {uri: 'qemu:///system'}}":                                   "p.yaml:4: stage s: with.listen is missing: the address of this host that machines of qemu:///system can reach",
		"stages:\n- {name: s, uses: smoke, with: {metadata: {instance-id: x}}}":                              "p.yaml:4: stage s: with.metadata: instance-id is made for each machine and cannot be given",
		"stages:\n- name: s\n  uses: smoke\n  with:\n    tests: {tags: ['a b']}":                             `p.yaml:7: stage s: with.tests: "a b" is not a tag: letters, digits, '.', '_' and '-'`,
		"stages:\n- name: s\n  uses: smoke\n  with:\n    tests: {tags: []}":                                  "p.yaml:7: stage s: with.tests.tags is empty: no test has one of no tags",
		"stages:\n- name: s\n  uses: smoke\n  with:\n    tests:\n      without: [a]":                         `p.yaml:8: unknown field "without"`,
		"stages:\n- name: s\n  uses: smoke\n  with:\n    shell: telnet":                                      `p.yaml:7: stage s: with.shell "telnet": expected ssh, agent or console`,
		"stages:\n- {name: s, uses: smoke, with: {network: none}}":                                           "p.yaml:4: stage s: with.network none: without a network with.shell must be agent or console",
		"stages:\n- {name: s, uses: smoke, with: {network: none, shell: agent}}":                             "",
		"stages:\n- {name: s, uses: reboots, with: {shell: console}}":                                        "p.yaml:4: stage s: with.shell console: reboots needs ssh",
		"stages:\n- {name: s, uses: reboots, with: {again: -1}}":                                             "p.yaml:4: stage s: with.again is -1: expected 0 to 10",
		"stages:\n- {name: x-bios, uses: smoke, with: {tests: {not: [a]}}}":                                  "p.yaml:4: stage x-bios: with.tests: libvirt-smoke-x-bios is evidence of all tests on that firmware: call the stage something else",
		"stages:\n- {name: " + strings.Repeat("x", 60) + ", uses: smoke, with: {tests: {not: [a]}}}":         "p.yaml:4: stage " + strings.Repeat("x", 60) + ": with.tests: no channel can name evidence of the kind libvirt-smoke-" + strings.Repeat("x", 60) + ": the stage's name is too long",
		"stages:\n- {name: s, uses: promote, with: {channel: c}}":                                            `p.yaml:4: stage s: with.channel "c" is not one of the file's channels`,
		"stages:\n- {name: s, uses: promote, with: {channel: c}}\nchannels:\n- {name: c, requires: [x]}\n":   "",
		"stages:\n- {name: s, uses: smoke, with: {firmware: bios, cpus: 1, memory: 64, metadata: {a: [1]}}}": "",
	} {
		_, _, err := load(t, s, text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s\ngives %q; want %q", text, got, want)
		}
	}
}

func TestPromote(t *testing.T) {
	s, digest := store(t, "x")
	_, steps, err := load(t, s, "stages:\n- {name: s, uses: promote, with: {channel: c}}\nchannels:\n- {name: c, requires: [libvirt-smoke]}\n")
	if err != nil {
		t.Fatal(err)
	}
	attach := func(r evidence.Result) {
		t.Helper()
		if err := s.Attach(&evidence.Evidence{Kind: "libvirt-smoke", Subject: digest, Result: r, Started: time.Unix(1, 0), Ended: time.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	tagged := func() bool {
		tags, err := s.Images.Tags()
		if err != nil {
			t.Fatal(err)
		}
		return tags["c"] == digest
	}
	refused := func(why string) {
		t.Helper()
		_, err := steps["s"].Run(t.Context(), job(t, digest))
		if r, ok := errors.AsType[*pipeline.Refusal](err); !ok || !strings.Contains(r.Error(), why) || tagged() {
			t.Errorf("promotion: %v, tagged %v; want a refusal: %s", err, tagged(), why)
		}
	}
	refused("missing evidence: libvirt-smoke")
	attach(evidence.Fail)
	refused("failed evidence: libvirt-smoke")
	attach(evidence.Pass)
	if _, err := steps["s"].Run(t.Context(), job(t, digest)); err != nil || !tagged() {
		t.Errorf("promotion with evidence: %v, tagged %v", err, tagged())
	}
	if _, err := steps["s"].Run(t.Context(), job(t, "")); err == nil {
		t.Error("a promotion without an image succeeds")
	}
}

// The disk that machines start from is checked each time, and unpacked anew
// when it is not what the digest says.
func TestDiskIsVerified(t *testing.T) {
	s, digest := store(t, "x")
	path, err := s.Disk(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	good, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append([]byte("bad"), good[3:]...), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := s.Disk(t.Context(), digest)
	now, _ := os.ReadFile(again)
	if err != nil || again != path || !bytes.Equal(now, good) {
		t.Errorf("a changed disk was used (%v)", err)
	}
}

func TestNoLibvirtd(t *testing.T) {
	s, digest := store(t, "x")
	_, steps, err := load(t, s, "stages:\n- {name: s, uses: smoke, with: {uri: 'qemu+unix:///system?socket=/nowhere/sock', listen: 127.0.0.1}}")
	if err != nil {
		t.Fatal(err)
	}
	_, err = steps["s"].Run(t.Context(), job(t, digest))
	if command.Status(err) != command.StatusMissing || !strings.Contains(err.Error(), "no libvirtd is running") {
		t.Errorf("without libvirtd: %v, status %d", err, command.Status(err))
	}
	if refs, _ := s.Images.Referrers(digest, registry.EvidenceType); len(refs) > 0 {
		t.Error("a testbed that failed left evidence about the image")
	}
}

// A machine that never reports, and one that dies, fail the image: there is
// evidence of it, JUnit and the console.
func TestMachineThatDoesNotReport(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq")
	for text, want := range map[string]string{
		"hello\r\n": "no completion signal: too late",
		"Kernel panic - not syncing: no init\r\n": "the console says: Kernel panic - not syncing: no init",
		"imginit: BOOT FAILED: no root\r\n":       "the console says: imginit: BOOT FAILED: no root",
	} {
		t.Run(strings.TrimSpace(text), func(t *testing.T) {
			t.Parallel() // they wait for firmware
			s, digest := store(t, text)
			_, steps, err := load(t, s, "stages:\n- {name: s, uses: smoke, with: {firmware: bios, cpus: 1, memory: 64}}")
			if err != nil {
				t.Fatal(err)
			}
			j := job(t, digest)
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("too late"))
			defer cancel()
			if strings.HasSuffix(want, "too late") {
				ctx = lateAfter(ctx, s, strings.TrimSpace(text))
			}
			_, err = steps["s"].Run(ctx, j)
			if err == nil || !strings.Contains(err.Error(), "1 failed: boot/configured: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("%v; want %s", err, want)
			}
			if b, _ := os.ReadFile(filepath.Join(j.Dir, "console.log")); !strings.Contains(string(b), strings.TrimSpace(text)) {
				t.Errorf("console.log holds %q", b)
			}
			if b, _ := os.ReadFile(filepath.Join(j.Dir, "junit.xml")); !strings.Contains(string(b), `failures="1"`) {
				t.Errorf("junit.xml holds %s", b)
			}
			proofs, err := s.Proofs(digest)
			if err != nil || len(proofs) != 1 || proofs[0].Kind != "libvirt-smoke" || proofs[0].Passed {
				t.Errorf("proofs = %v, %v; want one failed libvirt-smoke", proofs, err)
			}
		})
	}
}

// lateAfter is a context whose time is over soon after a console shows a text.
func lateAfter(ctx context.Context, s *Store, text string) context.Context {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			consoles, _ := filepath.Glob(filepath.Join(s.Dir, "smoke-*/machine/console.log"))
			for _, path := range consoles {
				if b, _ := os.ReadFile(path); strings.Contains(string(b), text) {
					time.Sleep(time.Second)
					cancel(errors.New("too late"))
				}
			}
		}
	}()
	return ctx
}

// Nobody waits for a BIOS to start what has nothing for it.
func TestNoBootLoaderForBIOS(t *testing.T) {
	name := filepath.Join(t.TempDir(), "disk.raw")
	for content, want := range map[string]int{
		strings.Repeat("\x00", 446) + "partitions": command.StatusUsage,
		"\xeb" + strings.Repeat("\x00", 511):       command.StatusOK,
		"cut off":                                  command.StatusFailed,
	} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := startsUnderBIOS(name); command.Status(err) != want {
			t.Errorf("%q: %v, status %d; want %d", content, err, command.Status(err), want)
		}
	}
}

// An interrupted test says nothing about the image.
func TestInterruptedSmoke(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "libvirtd", "qemu-system-x86_64", "qemu-img", "dnsmasq")
	s, digest := store(t, "hello\r\n")
	_, steps, err := load(t, s, "stages:\n- {name: s, uses: smoke, with: {firmware: bios, cpus: 1, memory: 64}}")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(3*time.Second, cancel)
	_, err = steps["s"].Run(ctx, job(t, digest))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if proofs, _ := s.Proofs(digest); len(proofs) > 0 {
		t.Errorf("an interrupted test left evidence: %v", proofs)
	}
}

// What a killed run left in the store goes, nothing else does.
func TestSweep(t *testing.T) {
	s, digest := store(t, "x")
	dir, err := s.scratch("smoke-")
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 || !filepath.IsAbs(dir) {
		t.Errorf("scratch directory %s has mode %v, %v", dir, fi.Mode(), err)
	}
	leave, err := s.Enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if _, err := os.Stat(dir); err == nil {
		t.Error("the killed run's directory is still there")
	}
	if _, err := s.Images.Image(digest); err != nil {
		t.Error(err)
	}
}
