package attest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/evidence"
)

// Resource is a ResourceDescriptor of in-toto
// (in-toto/attestation, spec/v1/resource_descriptor.md).
type Resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// TestResult is the predicate of how a test ended
// (in-toto/attestation, spec/predicates/test-result.md). Our own part, which
// other readers pass over, says what gates need.
type TestResult struct {
	Result        string     `json:"result"` // PASSED, WARNED or FAILED
	Configuration []Resource `json:"configuration"`
	Passed        []string   `json:"passedTests,omitempty"`
	Warned        []string   `json:"warnedTests,omitempty"` // failures that are snoozed
	Failed        []string   `json:"failedTests,omitempty"`
	Goldsmith     TestRun    `json:"goldsmith"`
}

// TestRun says which test it was.
type TestRun struct {
	Kind    string           `json:"kind"` // as evidence has it: libvirt-smoke
	Run     string           `json:"run"`
	Stage   string           `json:"stage"`
	Attempt int              `json:"attempt"`
	Started time.Time        `json:"started"`
	Ended   time.Time        `json:"ended"`
	Machine evidence.Machine `json:"machine"`
	Rerun   bool             `json:"rerun,omitempty"`  // a test passed only when it was run again
	Reruns  []string         `json:"reruns,omitempty"` // which
}

// Tested makes the predicate of evidence, whose JSON form is content.
func Tested(e *evidence.Evidence, content []byte) TestResult {
	sum := sha256.Sum256(content)
	t := TestResult{
		Result:        "FAILED",
		Configuration: []Resource{{Name: "evidence.json", Digest: map[string]string{"sha256": hex.EncodeToString(sum[:])}}},
		Goldsmith: TestRun{Kind: e.Kind, Run: e.Run, Stage: e.Stage, Attempt: e.Attempt, Started: e.Started, Ended: e.Ended,
			Machine: e.Machine, Rerun: Rerun(e)},
	}
	for _, x := range e.Tests {
		name := strings.TrimPrefix(x.Element+"/"+x.Name, "/")
		switch {
		case x.Result == evidence.Pass:
			t.Passed = append(t.Passed, name)
			if x.Rerun() {
				t.Goldsmith.Reruns = append(t.Goldsmith.Reruns, name)
			}
		case x.Result == evidence.Fail && x.Snoozed != "":
			t.Warned = append(t.Warned, name)
		case x.Result == evidence.Fail:
			t.Failed = append(t.Failed, name)
		}
	}
	if e.Result == evidence.Pass {
		t.Result = "PASSED"
		if len(t.Warned) > 0 {
			t.Result = "WARNED"
		}
	}
	return t
}

// Rerun tells whether a test of the evidence passed only when it was run again.
func Rerun(e *evidence.Evidence) bool {
	return slices.ContainsFunc(e.Tests, evidence.Test.Rerun)
}

// Pass tells whether the tests passed: one whose failures are all snoozed has.
func (t *TestResult) Pass() bool { return t.Result == "PASSED" || t.Result == "WARNED" }

// Test reads a statement about a test, and that what it says makes sense.
func (s *Statement) Test() (*TestResult, error) {
	t := &TestResult{}
	if err := s.Decode(TestResultType, t); err != nil {
		return nil, err
	}
	switch {
	case t.Result != "PASSED" && t.Result != "WARNED" && t.Result != "FAILED":
		return nil, errors.New("statement: its result is none")
	case t.Goldsmith.Kind == "":
		return nil, errors.New("statement: it does not say which kind of test it was")
	case t.Pass() && len(t.Failed) > 0:
		return nil, errors.New("statement: it passed, and tests failed")
	}
	return t, nil
}
