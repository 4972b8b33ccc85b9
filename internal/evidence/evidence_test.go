package evidence

import (
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	for _, tt := range []struct {
		tests string
		want  Result
	}{{"", Fail}, {"pass", Pass}, {"pass skip", Pass}, {"skip", Fail}, {"pass fail", Fail}} {
		var tests []Test
		for _, r := range strings.Fields(tt.tests) {
			tests = append(tests, Test{Result: Result(r)})
		}
		if got := Judge(tests); got != tt.want {
			t.Errorf("Judge(%s) = %s; want %s", tt.tests, got, tt.want)
		}
	}
}

func TestJUnit(t *testing.T) {
	start := time.Unix(1700000000, 0)
	e := Evidence{Kind: "libvirt-smoke", Subject: "sha256:ab", Run: "7", Attempt: 1,
		Started: start, Ended: start.Add(90 * time.Second),
		Measurements: []Measurement{{"downtime", 12.3456, "s"}, {"lost-writes", 0, "writes"}}, Tests: []Test{
			{Name: "10-a", Element: "redis", Result: Pass, Seconds: 1.5, Output: "fine\x1b[0m & <ok>"},
			{Name: "20-b", Element: "redis", Result: Fail, Reason: "exit status 3"},
			{Name: "30-c", Element: "boot", Result: Skip, Reason: "no disk"},
		}}
	b, err := e.JUnit()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`<testsuite name="libvirt-smoke" tests="3" failures="1" errors="0" skipped="1" time="90.000" timestamp="2023-11-14T22:13:20">`,
		`<property name="image" value="sha256:ab"></property>`,
		`<property name="downtime" value="12.346 s"></property>`,
		`<property name="lost-writes" value="0 writes"></property>`,
		`<testcase name="20-b" classname="redis" time="0.000">`,
		`<failure message="exit status 3"></failure>`,
		`<skipped message="no disk"></skipped>`,
		`<system-out>fine[0m &amp; &lt;ok&gt;</system-out>`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if err := xml.Unmarshal(b, new(struct{})); err != nil {
		t.Errorf("not XML: %v", err)
	}
}

// sampleTests has each kind of result.
var sampleTests = []Test{
	{Name: "10-a", Element: "redis", Result: Pass, Seconds: 1.5, Output: "good\n", Attempts: 2, Class: Flake,
		Earlier: []Try{{Class: TestFault, Reason: "exit status 1: late", Output: "too\nlate", Seconds: 1}}},
	{Name: "20-b", Element: "redis", Result: Fail, Reason: "exit status 3: # of 7\nlines", Class: TestFault, Because: "it says so"},
	{Name: "30-c", Element: "boot", Result: Skip, Reason: "no disk"},
	{Name: "40-d", Result: Fail, Reason: "known", Class: Unknown, Snoozed: "https://example.org/7"},
}

func TestTAP(t *testing.T) {
	e := Evidence{Tests: sampleTests}
	want := `TAP version 14
1..4
ok 1 - redis/10-a
  ---
  class: "flake"
  attempts: "2"
  output: "good "
  attempt_1: "test: exit status 1: late"
  attempt_1_output: "too late"
  duration_ms: "1500"
  ...
not ok 2 - redis/20-b
  ---
  message: "exit status 3: \\# of 7 lines"
  class: "test"
  because: "it says so"
  duration_ms: "0"
  ...
ok 3 - boot/30-c # SKIP no disk
  ---
  duration_ms: "0"
  ...
not ok 4 - 40-d # TODO snoozed, https://example.org/7
  ---
  message: "known"
  class: "unknown"
  duration_ms: "0"
  ...
`
	if diff := cmp.Diff(want, string(e.TAP())); diff != "" {
		t.Errorf("TAP (-want +got):\n%s", diff)
	}
}

// A test that fails each time is no flake.
func TestRerunFailure(t *testing.T) {
	e := &Evidence{Tests: []Test{{Name: "a", Result: Fail, Reason: "no", Class: TestFault, Attempts: 2, Earlier: []Try{{Class: Unknown, Reason: "gone"}}}}}
	b, err := e.JUnit()
	if err != nil || e.Tests[0].Rerun() || !strings.Contains(string(b), `<rerunFailure message="gone" type="unknown">`) || strings.Contains(string(b), "flaky") {
		t.Errorf("%v\n%s", err, b)
	}
}

func TestSnoozed(t *testing.T) {
	if got := Summary(sampleTests); got != "1 passed, 1 failed, 1 skipped, 1 failed and snoozed, 1 only when run again" {
		t.Errorf("Summary: %s", got)
	}
	if Judge(sampleTests) != Fail || Judge(append(sampleTests[:1:1], sampleTests[2:]...)) != Pass || Judge(sampleTests[3:]) != Fail {
		t.Error("a snoozed failure counts, or is a success")
	}
	b, err := (&Evidence{Tests: sampleTests}).JUnit()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`failures="1"`, `skipped="2"`, `type="test">it says so</failure>`, `<skipped message="snoozed, https://example.org/7: known"></skipped>`,
		`<flakyFailure message="exit status 1: late" type="test">`, "<system-out>too&#xA;late</system-out>", "<system-out>good&#xA;</system-out>"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
}
