package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/element"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/pipeline"
)

// smokeTests makes an element with tests, NAME to text, and an image of it. Each
// test first notes its name and its machine in a file.
func smokeTests(t *testing.T, s *Store, tests map[string]string) (elements element.Path, img, notes string) {
	t.Helper()
	dir := t.TempDir()
	notes = filepath.Join(t.TempDir(), "notes")
	for name, text := range tests {
		path := filepath.Join(dir, "e", "smoke.d", name)
		header, text, _ := strings.Cut(text, "\n")
		script := fmt.Sprintf("#!/bin/sh\n%s\necho $(basename $0) $(sed -n 's/.*\"instance-id\": \"\\(.*\\)\".*/\\1/p' $METADATA_FILE) >>%s\n%s\n", header, notes, text)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(script), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	return element.Path{dir}, put(t, s, "demo", "1", "e"), notes
}

// runSmoke runs a stage's step at a place, and returns its evidence.
func runSmoke(t *testing.T, s *Store, with string, elements element.Path, pl place, j *pipeline.Job) (*evidence.Evidence, error) {
	t.Helper()
	_, steps, err := load(t, s, "stages:\n- {name: s, uses: smoke, with: "+with+"}")
	if err != nil {
		t.Fatal(err)
	}
	step := steps["s"].(*onMachine)
	step.place, step.env.Elements, step.patience = pl, elements, 2*time.Second
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("too late"))
	defer cancel()
	_, runErr := step.Run(ctx, j)
	refs, err := s.Images.Referrers(j.Image, registry.EvidenceType)
	if err != nil {
		t.Fatal(err)
	}
	if len(refs) == 0 {
		return &evidence.Evidence{}, runErr
	}
	b, err := s.Images.Attached(refs[len(refs)-1].Digest, "evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	e := &evidence.Evidence{}
	if err := json.Unmarshal(b, e); err != nil {
		t.Fatal(err)
	}
	return e, runErr
}

func results(e *evidence.Evidence) string {
	var list []string
	for _, t := range e.Tests {
		list = append(list, t.Name+" "+string(t.Result))
	}
	return strings.Join(list, ", ")
}

// renewableMachine is one that is not given back between tests.
type renewableMachine struct{ *fakeMachine }

func (m renewableMachine) renew(ctx context.Context, o order) error {
	if err := m.PowerOff(ctx); err != nil {
		return err
	}
	console := m.console
	_, err := m.fakePlace.install(ctx, o)
	m.console = console
	return err
}

type renewablePlace struct{ *fakePlace }

func (p renewablePlace) open(context.Context, *pipeline.Job) (bench, error) { return p, nil }
func (p renewablePlace) install(ctx context.Context, o order) (machine, error) {
	m, err := p.fakePlace.install(ctx, o)
	return renewableMachine{m.(*fakeMachine)}, err
}

// Tests that share run on the first machine, each other one on one of its own;
// whatever the order, the evidence has that of the elements.
func TestMachinesOfTheirOwn(t *testing.T) {
	for _, renewable := range []bool{false, true} {
		t.Run(fmt.Sprint("renewable ", renewable), func(t *testing.T) {
			s, err := OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			p := newFakePlace(t)
			p.machine.start = func(m *fakeMachine) bool { // a console that remembers what came before
				f, err := os.OpenFile(m.console, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
				if err == nil {
					_, err = fmt.Fprintf(f, "boot %d\n", m.boots)
					err = errors.Join(err, f.Close())
				}
				return err == nil
			}
			elements, img, notes := smokeTests(t, s, map[string]string{
				"10-wrecks": "## goldsmith: {destructive: true}",
				"20-shares": "", "30-alone": "## goldsmith: {shares: false}", "40-tags": "## goldsmith: {tags: [a]}",
				"50-elsewhere": "## goldsmith: {platforms: [metal]}"})
			p.machine.answer = func(m *fakeMachine, line string) (string, bool) { // what is wrecked says so in the end
				if line == "date +%s" {
					return "1", true
				}
				if b, _ := os.ReadFile(notes); strings.HasPrefix(line, "journalctl --no-pager") && bytes.HasSuffix(b, []byte("-2\n")) {
					f, _ := os.OpenFile(m.console, os.O_APPEND|os.O_WRONLY, 0)
					_, _ = f.WriteString("Kernel panic - not syncing\n")
					_ = f.Close()
				}
				return "", false
			}
			var pl place = p
			if renewable {
				pl = renewablePlace{p}
			}
			j := job(t, img)
			e, err := runSmoke(t, s, "{}", elements, pl, j)
			if err != nil {
				t.Fatal(err)
			}
			if want := "configured pass, 10-wrecks pass, 20-shares pass, 30-alone pass, 40-tags pass, 50-elsewhere skip"; results(e) != want || e.Kind != "libvirt-smoke" {
				t.Errorf("%s: %s; want %s", e.Kind, results(e), want)
			}
			b, err := os.ReadFile(notes)
			if want := fmt.Sprintf("20-shares %[1]s\n40-tags %[1]s\n10-wrecks %[1]s-2\n30-alone %[1]s-3\n", "demo-1-s-1"); err != nil || string(b) != want {
				t.Errorf("machines:\n%s; want\n%s", b, want)
			}
			for file, want := range map[string]string{"console.log": "boot 1\n", "machines/2-e-10-wrecks/console.log": "boot 2\nKernel panic - not syncing\n",
				"machines/3-e-30-alone/console.log": "boot 3\n", "journal": ""} {
				if b, err := os.ReadFile(filepath.Join(j.Dir, file)); err != nil || string(b) != want {
					t.Errorf("%s: %q, %v; want %q", file, b, err, want)
				}
			}
		})
	}
}

// A machine of a test's own that does not come up fails that test.
func TestOwnMachineNotUp(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := newFakePlace(t)
	p.machine.start = func(m *fakeMachine) bool {
		if m.boots == 1 {
			return true
		}
		m.report("FAILURE", "no disk")
		return false
	}
	elements, img, _ := smokeTests(t, s, map[string]string{"10-a": "", "20-b": "## goldsmith: {destructive: true}"})
	e, err := runSmoke(t, s, "{}", elements, p, job(t, img))
	if err == nil || results(e) != "configured pass, 10-a pass, 20-b fail" || e.Tests[2].Reason != "its machine: the machine reports FAILURE: no disk" {
		t.Errorf("%+v, %v", e, err)
	}
}

// Tags choose tests, and some tests do not stand for all: the evidence is called
// otherwise.
func TestChosenTests(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	elements, img, _ := smokeTests(t, s, map[string]string{"10-a": "## goldsmith: {tags: [fast, disk]}", "20-b": "## goldsmith: {tags: [slow, disk]}", "30-c": ""})
	for with, want := range map[string]string{
		"{tests: {tags: [fast]}}":              "libvirt-smoke-s: configured pass, 10-a pass, 20-b skip, 30-c skip",
		"{tests: {not: [slow]}}":               "libvirt-smoke-s: configured pass, 10-a pass, 20-b skip, 30-c pass",
		"{tests: {tags: [disk], not: [slow]}}": "libvirt-smoke-s: configured pass, 10-a pass, 20-b skip, 30-c skip",
	} {
		e, err := runSmoke(t, s, with, elements, newFakePlace(t), job(t, img))
		if err != nil || e.Kind+": "+results(e) != want {
			t.Errorf("%s: %+v, %v; want %s", with, e, err, want)
		}
	}
	_, err = runSmoke(t, s, "{tests: {tags: [fsat]}}", elements, newFakePlace(t), job(t, img))
	if err == nil || err.Error() != "with.tests.tags: none of the image's 3 tests has one of fsat" {
		t.Errorf("a tag that no test has: %v", err)
	}
}

// A test that passes when it is run again on request is a flake, in all that the
// stage leaves and for the gate.
func TestAgain(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	elements, img, notes := smokeTests(t, s, map[string]string{"10-flaky": "\necho said $(grep -c flaky NOTES); test $(grep -c flaky NOTES) -ge 2"})
	path := filepath.Join(elements[0], "e/smoke.d/10-flaky")
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), "NOTES", notes)), 0o755); err != nil {
		t.Fatal(err)
	}
	if e, err := runSmoke(t, s, "{}", elements, newFakePlace(t), job(t, img)); err == nil || e.Tests[1].Attempts != 0 {
		t.Errorf("not asked for: %+v, %v", e, err)
	}
	_ = os.Remove(notes)
	j := job(t, img)
	e, err := runSmoke(t, s, "{again: 1}", elements, newFakePlace(t), j)
	if err != nil || e.Tests[1].Class != evidence.Flake {
		t.Fatalf("%+v, %v", e, err)
	}
	for file, want := range map[string]string{"junit.xml": "<flakyFailure", "results.tap": "attempt_1_output: \"said 1 \"\n"} {
		if b, err := os.ReadFile(filepath.Join(j.Dir, file)); err != nil || !strings.Contains(string(b), want) {
			t.Errorf("%s: %v\n%s", file, err, b)
		}
	}
	proofs, err := s.Proofs(img)
	if err != nil {
		t.Fatal(err)
	}
	c := &pipeline.Channel{Name: "c", Requires: []pipeline.Requirement{{"libvirt-smoke"}}, Reruns: "refuse"}
	if d := pipeline.Gate(c, pipeline.Facts{Image: img, Proofs: proofs}, time.Now()); d.Open || d.Unmet[0].Reason != pipeline.EvidenceRerun {
		t.Errorf("a channel that refuses: %+v", d)
	}
	c.Reruns = ""
	if d := pipeline.Gate(c, pipeline.Facts{Image: img, Proofs: proofs}, time.Now()); !d.Open || d.Met[0] != "libvirt-smoke passed, but only when run again" {
		t.Errorf("a channel that does not: %+v", d)
	}
}

// A dead machine gets its power cut and comes back for the tests that follow.
func TestRevive(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	p := newFakePlace(t)
	p.machine.answer = func(m *fakeMachine, line string) (string, bool) {
		if strings.Contains(line, "exec env") {
			_ = m.PowerOff(t.Context())
		}
		return "", false
	}
	elements, img, _ := smokeTests(t, s, map[string]string{"10-kills": "## goldsmith: {on: machine}", "20-next": ""})
	e, err := runSmoke(t, s, "{}", elements, p, job(t, img))
	if err == nil || results(e) != "configured pass, 10-kills fail, 20-next pass" || p.machine.boots != 2 {
		t.Fatalf("%+v, %v, %d boots", e, err, p.machine.boots)
	}
	if why := e.Tests[1].Because; e.Tests[1].Class != evidence.Unknown || !strings.HasSuffix(why, "the machine did not answer after it and was revived") {
		t.Errorf("%s: %s", e.Tests[1].Class, why)
	}
}
