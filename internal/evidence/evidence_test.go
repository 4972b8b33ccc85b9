package evidence

import (
	"encoding/xml"
	"strings"
	"testing"
	"time"
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
	e := Evidence{Kind: "libvirt-smoke", Subject: "sha256:ab", Run: "7", Attempt: 1, Started: start, Ended: start.Add(90 * time.Second), Tests: []Test{
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
