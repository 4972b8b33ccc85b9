// Package evidence is what a test proved about an image: which image, by
// digest; which kind of test, on what; which checks, and how each ended.
//
// Evidence is attached to the image it is about and decides promotions, so it
// is a record and never edited. Its JSON form is described in docs/formats.md.
// JUnit gives the same in the form that CI systems show.
package evidence

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
	"time"
)

// Result is how a test ended.
type Result string

// The results. A skipped test does not spoil what it belongs to.
const (
	Pass Result = "pass"
	Fail Result = "fail"
	Skip Result = "skip"
)

// Test is one check.
type Test struct {
	Name    string  `json:"name"`
	Result  Result  `json:"result"`
	Seconds float64 `json:"seconds"`           // wall time
	Output  string  `json:"output,omitempty"`  // what it printed, the end of it
	Reason  string  `json:"reason,omitempty"`  // one line, for a failure or a skip
	Element string  `json:"element,omitempty"` // where it comes from
}

// Evidence is one test run of one image.
type Evidence struct {
	Kind    string    `json:"kind"`    // machine and test: "libvirt-smoke"
	Subject string    `json:"subject"` // the image's digest
	Result  Result    `json:"result"`
	Run     string    `json:"run"`     // the pipeline run that made it
	Stage   string    `json:"stage"`   // its stage
	Attempt int       `json:"attempt"` // counted from 1
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	Machine Machine   `json:"machine"`
	Tests   []Test    `json:"tests"`
}

// Machine is what the tests ran on.
type Machine struct {
	Driver      string `json:"driver"`                // such as libvirt
	Firmware    string `json:"firmware,omitempty"`    // uefi or bios
	Accelerator string `json:"accelerator,omitempty"` // of a virtual machine: kvm or tcg
}

// Judge returns Fail when any test failed or none passed, otherwise Pass: a
// run in which nothing was checked proves nothing.
func Judge(tests []Test) Result {
	passed := false
	for _, t := range tests {
		switch t.Result {
		case Fail:
			return Fail
		case Pass:
			passed = true
		}
	}
	if !passed {
		return Fail
	}
	return Pass
}

// Summary says the result in words: "5 passed, 1 skipped".
func Summary(tests []Test) string {
	n := map[Result]int{}
	for _, t := range tests {
		n[t.Result]++
	}
	var parts []string
	for _, r := range []struct {
		Result
		word string
	}{{Pass, "passed"}, {Fail, "failed"}, {Skip, "skipped"}} {
		if n[r.Result] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[r.Result], r.word))
		}
	}
	if len(parts) == 0 {
		return "no tests"
	}
	return strings.Join(parts, ", ")
}

// Encode returns the JSON form.
func (e *Evidence) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(e, "", "  ")
	return append(b, '\n'), err
}

// JUnit returns the tests as a JUnit XML document
// (https://github.com/testmoapp/junitxml describes the common format).
func (e *Evidence) JUnit() ([]byte, error) {
	type message struct {
		Message string `xml:"message,attr"`
	}
	type testcase struct {
		Name      string   `xml:"name,attr"`
		ClassName string   `xml:"classname,attr"`
		Time      string   `xml:"time,attr"`
		Failure   *message `xml:"failure,omitempty"`
		Skipped   *message `xml:"skipped,omitempty"`
		Output    string   `xml:"system-out,omitempty"`
	}
	type property struct {
		Name  string `xml:"name,attr"`
		Value string `xml:"value,attr"`
	}
	type suite struct {
		XMLName    xml.Name   `xml:"testsuite"`
		Name       string     `xml:"name,attr"`
		Tests      int        `xml:"tests,attr"`
		Failures   int        `xml:"failures,attr"`
		Errors     int        `xml:"errors,attr"`
		Skipped    int        `xml:"skipped,attr"`
		Time       string     `xml:"time,attr"`
		Timestamp  string     `xml:"timestamp,attr"`
		Properties []property `xml:"properties>property"`
		Cases      []testcase `xml:"testcase"`
	}
	s := suite{
		Name: e.Kind, Tests: len(e.Tests), Time: seconds(e.Ended.Sub(e.Started).Seconds()),
		Timestamp:  e.Started.UTC().Format("2006-01-02T15:04:05"),
		Properties: []property{{"image", e.Subject}, {"run", e.Run}, {"attempt", fmt.Sprint(e.Attempt)}},
	}
	for _, t := range e.Tests {
		c := testcase{Name: t.Name, ClassName: t.Element, Time: seconds(t.Seconds), Output: printable(t.Output)}
		switch t.Result {
		case Fail:
			s.Failures++
			c.Failure = &message{Message: printable(t.Reason)}
		case Skip:
			s.Skipped++
			c.Skipped = &message{Message: printable(t.Reason)}
		}
		s.Cases = append(s.Cases, c)
	}
	b, err := xml.MarshalIndent(struct {
		XMLName xml.Name `xml:"testsuites"`
		Suite   suite
	}{Suite: s}, "", "  ")
	return append([]byte(xml.Header), append(b, '\n')...), err
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }

// printable drops what XML 1.0 cannot hold: terminal escapes and other
// control characters.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0xFFFE || r == 0xFFFF {
			return -1
		}
		return r
	}, s)
}
