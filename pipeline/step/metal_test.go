package step

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
)

// An agent is a machine's that anything may have happened to: it may name any
// number of steps, and end none.
func TestAgentSteps(t *testing.T) {
	var log bytes.Buffer
	meter := command.NewMeter()
	p := command.NewProgress("test", command.IO{Stdout: io.Discard, Stderr: io.Discard}, false).Metered(meter)
	a := newAgentSteps(p, &log)
	say := func(step, state string) { a.event(deploy.Event{Step: step, State: state, Done: 1, Total: 2}) }
	say("10-disks", deploy.Begin)
	say("10-disks", deploy.Progress)
	if got := meter.Line(); got != "10-disks 50 %" {
		t.Errorf("it is at %q", got)
	}
	say("10-disks", deploy.Begin) // it was started anew
	say("10-disks", deploy.End)
	say("05-early", deploy.End) // it began before we listened
	if got := meter.Line(); got != "" || len(a.steps) != 0 {
		t.Errorf("it is at %q, %v", got, a.steps)
	}
	for _, line := range []string{"deploy 10-disks begin\n", "deploy 10-disks end\n", "deploy 05-early end\n"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("no %q in\n%s", line, log.String())
		}
	}
	for i := range 5 * maxAgentEvents {
		say(fmt.Sprint(i), deploy.Begin)
		say("x", deploy.Failed)
	}
	if lines := strings.Count(log.String(), "\n"); lines != maxAgentEvents+1 || len(a.steps) > maxAgentEvents {
		t.Errorf("%d lines, %d steps; want no more than %d", lines, len(a.steps), maxAgentEvents)
	}
	for i := range 5 * maxAgentEvents {
		say(fmt.Sprint(i), deploy.End)
	}
	if got := meter.Line(); got != "" || len(a.steps) != 0 {
		t.Errorf("%d steps go on, such as %q", len(a.steps), got)
	}
}
