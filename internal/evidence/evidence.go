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
	"math"
	"strconv"
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
	// Class says whose fault a failure is, Because what speaks for that.
	Class   Class  `json:"class,omitempty"`
	Because string `json:"because,omitempty"`
	// Snoozed is the URL of the work on a failure that does not count
	// meanwhile.
	Snoozed string `json:"snoozed,omitempty"`
	// Attempts is how often it was run, when more than once; Earlier are the
	// failures before the last.
	Attempts int   `json:"attempts,omitempty"`
	Earlier  []Try `json:"earlier,omitempty"`
}

// Try is a failure after which a test was run again.
type Try struct {
	Class   Class   `json:"class"`
	Reason  string  `json:"reason"`
	Because string  `json:"because,omitempty"`
	Output  string  `json:"output,omitempty"` // the end of it
	Seconds float64 `json:"seconds"`
}

// Rerun tells whether the test passed, and only when it was run again.
func (t Test) Rerun() bool { return t.Result == Pass && t.Attempts > 1 }

// Class says whose fault a failure is.
type Class string

// The classes.
const (
	TestFault  Class = "test"  // the test says so: what it tests is not as it should be
	ImageFault Class = "image" // the machine shows that what runs on it is broken
	Infra      Class = "infra" // the machine, its controller or the testbed
	Flake      Class = "flake" // it failed, and passed when it was run again
	Unknown    Class = "unknown"
)

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
	// Measurements are figures that were taken on the way. They decide nothing.
	Measurements []Measurement `json:"measurements,omitempty"`
}

// Measurement is one figure: how long the machine did not answer, for example.
type Measurement struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"` // "s", "KiB", or what is counted: "writes"
}

// String is such as "downtime 12.5 s".
func (m Measurement) String() string { return m.Name + " " + m.amount() }

func (m Measurement) amount() string {
	return strconv.FormatFloat(math.Round(m.Value*1000)/1000, 'f', -1, 64) + " " + m.Unit
}

// Machine is what the tests ran on.
type Machine struct {
	Driver      string `json:"driver"`                // libvirt or metal
	Name        string `json:"name,omitempty"`        // of a server: the inventory's
	Firmware    string `json:"firmware,omitempty"`    // uefi or bios
	Accelerator string `json:"accelerator,omitempty"` // of a virtual machine: kvm or tcg
}

// Judge returns Fail when any test failed that is not snoozed, or none passed,
// otherwise Pass: a run in which nothing was checked proves nothing.
func Judge(tests []Test) Result {
	passed := false
	for _, t := range tests {
		switch t.Result {
		case Fail:
			if t.Snoozed == "" {
				return Fail
			}
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
	snoozed, again := 0, 0
	for _, t := range tests {
		switch {
		case t.Result == Fail && t.Snoozed != "":
			snoozed++
		default:
			n[t.Result]++
		}
		if t.Rerun() {
			again++
		}
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
	if snoozed > 0 {
		parts = append(parts, fmt.Sprintf("%d failed and snoozed", snoozed))
	}
	if again > 0 {
		parts = append(parts, fmt.Sprintf("%d only when run again", again))
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
// (https://github.com/testmoapp/junitxml describes the common format). Failures
// after which a test was run again are as Maven's Surefire has them: flakyFailure
// where it passed in the end, else rerunFailure.
func (e *Evidence) JUnit() ([]byte, error) {
	type message struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr,omitempty"`
		Text    string `xml:",chardata"`
	}
	type try struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Output  string `xml:"system-out,omitempty"`
	}
	type testcase struct {
		Name      string   `xml:"name,attr"`
		ClassName string   `xml:"classname,attr"`
		Time      string   `xml:"time,attr"`
		Failure   *message `xml:"failure,omitempty"`
		Skipped   *message `xml:"skipped,omitempty"`
		Again     []try    `xml:"rerunFailure"`
		Flaky     []try    `xml:"flakyFailure"`
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
	for _, m := range e.Measurements {
		s.Properties = append(s.Properties, property{m.Name, m.amount()})
	}
	for _, t := range e.Tests {
		c := testcase{Name: t.Name, ClassName: t.Element, Time: seconds(t.Seconds), Output: printable(t.Output)}
		switch {
		case t.Result == Fail && t.Snoozed != "":
			s.Skipped++
			c.Skipped = &message{Message: printable("snoozed, " + t.Snoozed + ": " + t.Reason)}
		case t.Result == Fail:
			s.Failures++
			c.Failure = &message{Message: printable(t.Reason), Type: string(t.Class), Text: printable(t.Because)}
		case t.Result == Skip:
			s.Skipped++
			c.Skipped = &message{Message: printable(t.Reason)}
		}
		for _, e := range t.Earlier {
			c.Again = append(c.Again, try{printable(e.Reason), string(e.Class), printable(e.Output)})
		}
		if t.Rerun() {
			c.Again, c.Flaky = nil, c.Again
		}
		s.Cases = append(s.Cases, c)
	}
	b, err := xml.MarshalIndent(struct {
		XMLName xml.Name `xml:"testsuites"`
		Suite   suite
	}{Suite: s}, "", "  ")
	return append([]byte(xml.Header), append(b, '\n')...), err
}

// TAP returns the tests in the Test Anything Protocol, version 14
// (https://testanything.org/tap-version-14-specification.html).
func (e *Evidence) TAP() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "TAP version 14\n1..%d\n", len(e.Tests))
	for i, t := range e.Tests {
		word, directive := "ok", ""
		switch {
		case t.Result == Fail && t.Snoozed != "":
			word, directive = "not ok", " # TODO snoozed, "+t.Snoozed
		case t.Result == Fail:
			word = "not ok"
		case t.Result == Skip:
			directive = " # SKIP " + tapText(t.Reason)
		}
		fmt.Fprintf(&b, "%s %d - %s%s\n", word, i+1, tapText(strings.TrimPrefix(t.Element+"/"+t.Name, "/")), directive)
		d := [][2]string{{"message", t.Reason}, {"class", string(t.Class)}, {"because", t.Because}}
		if t.Result == Skip {
			d = nil
		}
		d = append(d, t.reruns()...)
		tapDiagnostics(&b, append(d, [2]string{"duration_ms", fmt.Sprintf("%.0f", t.Seconds*1000)}))
	}
	return []byte(b.String())
}

// reruns are the diagnostics of a test that was run more than once, what it
// printed each time among them.
func (t Test) reruns() [][2]string {
	if t.Attempts < 2 {
		return nil
	}
	d := [][2]string{{"attempts", fmt.Sprint(t.Attempts)}, {"output", t.Output}}
	for i, e := range t.Earlier {
		name := fmt.Sprintf("attempt_%d", i+1)
		d = append(d, [2]string{name, string(e.Class) + ": " + e.Reason}, [2]string{name + "_output", e.Output})
	}
	return d
}

// tapDiagnostics is the YAML block after a test point.
func tapDiagnostics(b *strings.Builder, pairs [][2]string) {
	b.WriteString("  ---\n")
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(b, "  %s: %q\n", p[0], tapText(p[1]))
		}
	}
	b.WriteString("  ...\n")
}

// tapText is one line without what begins a directive.
func tapText(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(printable(s), "\n", " "), "#", "\\#")
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
