package pipeline

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// stages builds a pipeline from "name" or "name<need,need"; "name<" needs
// nothing.
func stages(list string) *Pipeline {
	p := &Pipeline{APIVersion: APIVersion, Name: "t"}
	for w := range strings.FieldsSeq(list) {
		name, needs, given := strings.Cut(w, "<")
		s := Stage{Name: name, Uses: "fake"}
		if given {
			s.Needs = []string{}
			if needs != "" {
				s.Needs = strings.Split(needs, ",")
			}
		}
		p.Stages = append(p.Stages, s)
	}
	return p
}

// record builds a run from "name=status" and "name=status@image".
func record(p *Pipeline, list string) *Run {
	r := &Run{ID: "1", Status: Running}
	for _, s := range p.Stages {
		r.Stages = append(r.Stages, &StageRun{Name: s.Name, Status: Todo})
	}
	for w := range strings.FieldsSeq(list) {
		name, rest, _ := strings.Cut(w, "=")
		status, image, made := strings.Cut(rest, "@")
		s := r.stage(name)
		s.Status, s.Image, s.Made, s.Reason = Status(status), image, made, "why"
	}
	return r
}

func text(actions []Action) string {
	var out []string
	for _, a := range actions {
		t := string(a.Do)
		if a.Stage != "" {
			t += " " + a.Stage
		}
		if a.Image != "" {
			t += "@" + a.Image
		}
		if a.Status != "" {
			t += " " + string(a.Status)
		}
		out = append(out, t+": "+a.Reason)
	}
	return strings.Join(out, "; ")
}

func TestPlan(t *testing.T) {
	for _, tt := range []struct{ name, stages, run, want string }{
		{"the first", "build smoke", "", "start build: needs nothing"},
		{"the image of the stage before", "build smoke", "build=passed@d1", "start smoke@d1: build passed"},
		{"wait for what runs", "build smoke", "build=running", ""},
		{"a failure skips what needs it", "build smoke promote", "build=failed", "skip smoke: build failed"},
		{"and what needs that", "build smoke promote", "build=failed smoke=skipped", "skip promote: smoke skipped"},
		{"the end, failed", "build smoke", "build=failed smoke=skipped", "finish failed: stage build failed: why"},
		{"the end, passed", "build smoke", "build=passed smoke=passed", "finish passed: all 2 stages passed"},
		{"the end, interrupted", "build smoke", "build=interrupted smoke=skipped", "finish interrupted: stage build interrupted: why"},
		{"side by side", "build a<build b<build", "build=passed@d", "start a@d: build passed; start b@d: build passed"},
		{"one side fails, the other goes on", "build a<build b<build c<a", "build=passed@d a=failed", "start b@d: build passed; skip c: a failed"},
		{"two images, the later one counts", "one two<one three", "one=passed@d1 two=passed@d2", "start three@d2: two passed"},
		{"an image is not taken from the side", "one<  two< three<one", "one=passed two=passed@d2", "start three: one passed"},
		{"a stage that was removed", "smoke", "", "start smoke: needs nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := stages(tt.stages)
			if got := text(Plan(record(p, tt.run), p)); got != tt.want {
				t.Errorf("Plan = %q; want %q", got, tt.want)
			}
		})
	}
	p := stages("build")
	r := record(p, "build=passed")
	r.Status = Passed
	if got := Plan(r, p); got != nil {
		t.Errorf("Plan of an ended run = %v; want nothing", got)
	}
}

// Whatever the pipeline and whatever fails, a run ends, no stage starts before
// what it needs has passed, and Plan changes neither argument.
func TestPlanProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "stages")
		p := &Pipeline{}
		for i := range n {
			s := Stage{Name: fmt.Sprintf("s%d", i)}
			if rapid.Bool().Draw(t, "explicit") {
				s.Needs = []string{}
				for j := range i {
					if rapid.Bool().Draw(t, "need") {
						s.Needs = append(s.Needs, fmt.Sprintf("s%d", j))
					}
				}
			}
			p.Stages = append(p.Stages, s)
		}
		r := record(p, "")
		for range 3*n + 3 {
			before := fmt.Sprintf("%+v", r)
			actions := Plan(r, p)
			if d := cmp.Diff(before, fmt.Sprintf("%+v", r)); d != "" {
				t.Fatalf("Plan changed the run:\n%s", d)
			}
			for _, a := range actions {
				switch s := r.stage(a.Stage); a.Do {
				case Start:
					for _, need := range p.needs(p.position(a.Stage)) {
						if r.stage(need).Status != Passed {
							t.Fatalf("%s starts although %s is %s", a.Stage, need, r.stage(need).Status)
						}
					}
					s.Status = rapid.SampledFrom([]Status{Passed, Passed, Failed}).Draw(t, "outcome")
				case Skip:
					s.Status = Skipped
				case Finish:
					return
				}
			}
		}
		t.Fatal("the run does not end")
	})
}

func TestGate(t *testing.T) {
	c := &Channel{Name: "production", Requires: []string{"libvirt-smoke", "metal-smoke"}}
	for _, tt := range []struct{ proofs, want string }{
		{"", "sha256:0 refused for production: missing evidence: libvirt-smoke, metal-smoke"},
		{"libvirt-smoke+", "sha256:0 refused for production: missing evidence: metal-smoke"},
		{"libvirt-smoke+ metal-smoke-", "sha256:0 refused for production: failed evidence: metal-smoke"},
		{"metal-smoke- libvirt-smoke+ metal-smoke+", ""},
		{"libvirt-smoke+ metal-smoke+ metal-smoke-", "sha256:0 refused for production: failed evidence: metal-smoke"},
	} {
		var proofs []Proof
		for w := range strings.FieldsSeq(tt.proofs) {
			proofs = append(proofs, Proof{w[:len(w)-1], w[len(w)-1] == '+'})
		}
		got := ""
		if err := c.Gate("sha256:0", proofs); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("Gate(%s) = %q; want %q", tt.proofs, got, tt.want)
		}
	}
}
