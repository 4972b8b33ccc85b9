package tests

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/pipeline"
)

const suiteImage = `name: suites
version: "%d"
release: bookworm
elements: [debian, boot, read-only-root, network, ssh-server, redis, imgupdate, trust%s]
environment: {BOOT_KERNEL: cloud, COLLECTCFG_SOURCES: nocloud imgpipe} # a smaller root to hash under emulation
size: 3GiB
outputs: [raw]
`

// suitePipeline has a stage that builds a definition, and those that a test adds.
const suitePipeline = `apiVersion: goldsmith/v1
name: suites
stages:
- {name: build, uses: build, timeout: 20m, with: {definition: %s, sign: keys/release.key}}
%s
channels:
- {name: candidate}
- {name: production, requires: [libvirt-upgrade]}
`

// suites is a directory with signed definitions, and with runs whose channel
// candidate holds version 1.
type suites struct {
	t   *testing.T
	dir string
	env []string
}

// newSuites builds and promotes version 1. Version 2 is v2.yaml; versions with
// other elements are made by define.
func newSuites(t *testing.T) *suites {
	t.Helper()
	s := &suites{t: t, dir: t.TempDir()}
	run(t, []string{"imgbuild", "keys", "release", filepath.Join(s.dir, "keys")}, nil, 0)
	key, err := os.ReadFile(filepath.Join(s.dir, "keys/release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("elements/trust/README.md", "# trust\n\nThe key of this test.\n")
	s.write("elements/trust/element-deps", "install-static\n")
	s.write("elements/trust/static/usr/share/goldsmith/trust/test.pub", string(key))
	s.env = []string{elements(t) + ":" + filepath.Join(s.dir, "elements")}
	s.define("v1.yaml", 1, "")
	s.define("v2.yaml", 2, "")
	if r := s.run("v1.yaml", "- {name: promote, uses: promote, with: {channel: candidate}}"); statuses(r) != "build=passed promote=passed" {
		t.Fatalf("stages: %s", statuses(r))
	}
	return s
}

func (s *suites) write(name, text string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// define writes the definition of a version, with more elements.
func (s *suites) define(file string, version int, more string) {
	s.t.Helper()
	s.write(file, fmt.Sprintf(suiteImage, version, more))
}

// run builds an image and passes through stages, which all need just that.
func (s *suites) run(definition, stages string) *pipeline.Run {
	s.t.Helper()
	return s.runFile(fmt.Sprintf(suitePipeline, definition, stages))
}

// runFile runs a pipeline file, of which the text is given.
func (s *suites) runFile(text string) *pipeline.Run {
	s.t.Helper()
	s.write("pipeline.yaml", text)
	_, out := program{[]string{"imgpipe", "run", "--json", "--dir", filepath.Join(s.dir, "runs"), filepath.Join(s.dir, "pipeline.yaml")}, s.env}.run(s.t)
	var result *pipeline.Run
	for line := range strings.Lines(out) {
		var said struct {
			Event  string
			Result pipeline.Run
		}
		if err := json.Unmarshal([]byte(line), &said); err == nil && said.Event == "result" {
			result = &said.Result
		}
	}
	if result == nil {
		s.t.Fatal("there is no result")
	}
	return result
}

// evidence is the newest of a kind about an image.
func (s *suites) evidence(digest, kind string) *evidence.Evidence {
	s.t.Helper()
	l, err := registry.Open(filepath.Join(s.dir, "runs/oci"))
	if err != nil {
		s.t.Fatal(err)
	}
	refs, err := l.Referrers(digest, registry.EvidenceType)
	if err != nil {
		s.t.Fatal(err)
	}
	var newest *evidence.Evidence
	for _, r := range refs {
		text, err := l.Attached(r.Digest, "evidence.json")
		e := &evidence.Evidence{}
		if err == nil {
			err = json.Unmarshal(text, e)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if e.Kind == kind {
			newest = e
		}
	}
	if newest == nil {
		s.t.Fatalf("no evidence %s about %s", kind, digest)
	}
	return newest
}

const redisStage = `metadata: {redis: {password: not-a-secret, maxmemory: 256mb}}`

// Every suite passes with good images, and leaves figures.
func TestSuites(t *testing.T) {
	need(t, false)
	s := newSuites(t)
	s.define("broken.yaml", 3, ", bad-health")
	r := s.run("v2.yaml", `- {name: upgrade, uses: upgrade, needs: [build], timeout: 60m, with: {`+redisStage+`}}
- {name: broken, uses: broken-upgrade, needs: [build], timeout: 60m, with: {broken: broken.yaml, sign: keys/release.key, why: never well}}
- {name: reset, uses: reset, needs: [build], timeout: 60m}
- {name: reboots, uses: reboots, needs: [build], timeout: 60m, with: {times: 2}}
- {name: power-cycle, uses: power-cycle, needs: [build], timeout: 60m, with: {times: 3}}
- {name: promote, uses: promote, needs: [upgrade], with: {channel: production}}`)
	if want := "build=passed upgrade=passed broken=passed reset=passed reboots=passed power-cycle=passed promote=passed"; statuses(r) != want {
		t.Fatalf("stages: %s; want %s", statuses(r), want)
	}
	image := r.Stages[0].Image
	for kind, want := range map[string][]string{
		"libvirt-upgrade":        {"update-seconds", "update-downtime", "update-writes", "update-lost-writes", "back-downtime", "back-lost-writes"},
		"libvirt-broken-upgrade": {"return-seconds"},
		"libvirt-reset":          {"reset-seconds"},
		"libvirt-reboots":        {"reboot-seconds-median", "var-growth"},
		"libvirt-power-cycle":    {"power-writes", "power-lost-writes", "power-seconds-longest"},
	} {
		e := s.evidence(image, kind)
		got := map[string]float64{}
		for _, m := range e.Measurements {
			t.Logf("%s: %s", kind, m)
			got[m.Name] = m.Value
		}
		for _, name := range want {
			v, ok := got[name]
			if zero := strings.Contains(name, "lost"); !ok || name != "var-growth" && zero != (v == 0) {
				t.Errorf("%s: %s is %v, %v", kind, name, v, ok)
			}
		}
	}
}

// An image that does not prove itself fails the upgrade, and that says why.
func TestFailingUpgrade(t *testing.T) {
	need(t, false)
	s := newSuites(t)
	s.define("bad.yaml", 2, ", bad-health")
	r := s.run("bad.yaml", `- {name: upgrade, uses: upgrade, needs: [build], timeout: 60m, with: {`+redisStage+`}}`)
	if got := statuses(r); got != "build=passed upgrade=failed" {
		t.Errorf("stages: %s", got)
	}
	e := s.evidence(r.Stages[0].Image, "libvirt-upgrade")
	found := false
	for _, test := range e.Tests {
		t.Logf("%s/%s: %s %s", test.Element, test.Name, test.Result, test.Reason)
		found = found || test.Name == "update" && test.Class == evidence.ImageFault && strings.Contains(test.Reason, "this image is never well")
	}
	if !found {
		t.Errorf("no test says that the image was never well")
	}
}
