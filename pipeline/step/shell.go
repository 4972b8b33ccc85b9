package step

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"goldsmith/internal/machineapi"
	"goldsmith/testbed"
)

// How commands reach a machine: with.shell. Without a network there are two ways,
// and then the machine is asked how it has configured itself, since it cannot
// tell.
const (
	shellSSH     = "ssh"
	shellAgent   = "agent"
	shellConsole = "console"

	noNetwork = "none" // with.network of libvirt
)

// checkShell says what is wrong with shell of a stage, and with the network that
// it needs.
func (w *machineWith) checkShell(suite string, bad func(key, format string, args ...any) error) []error {
	var errs []error
	isolated := w.Machine == "libvirt" && w.Network == noNetwork
	switch {
	case !slices.Contains([]string{"", shellSSH, shellAgent, shellConsole}, w.Shell):
		errs = append(errs, bad("shell", "with.shell %q: expected ssh, agent or console", w.Shell))
	case w.Shell == shellAgent && w.Machine == "metal":
		errs = append(errs, bad("shell", "with.shell agent: servers have no guest agent; expected ssh or console"))
	case w.Shell != "" && w.Shell != shellSSH && suite != "smoke":
		errs = append(errs, bad("shell", "with.shell %s: %s needs ssh", w.Shell, suite))
	case isolated && (w.Shell == "" || w.Shell == shellSSH):
		errs = append(errs, bad("network", "with.network none: without a network with.shell must be agent or console"))
	}
	if w.Shell == "" {
		w.Shell = shellSSH
	}
	return errs
}

// local tells whether commands reach the machine without a network.
func (s *subject) local() bool { return s.how == shellAgent || s.how == shellConsole }

// openLocal makes the shell of a machine that is reached without a network.
func (s *subject) openLocal() error {
	unable := func(what string) error {
		return &testbed.Fault{Kind: testbed.Unsupported, Machine: s.m.Name(), Doing: "open a shell", Err: errors.New("it has no " + what)}
	}
	switch s.how {
	case shellAgent:
		m, ok := s.m.(testbed.AgentCaller)
		if !ok {
			return unable("guest agent")
		}
		s.shell = &testbed.GuestAgent{Name: s.m.Name(), Machine: m}
	case shellConsole:
		m, ok := s.m.(testbed.Serial)
		if !ok {
			return unable("serial port")
		}
		s.shell = &testbed.ConsoleShell{Name: s.m.Name(), Machine: m}
	}
	return nil
}

// closeShell ends the connection to the machine, and what tests run there with.
func (s *subject) closeShell() {
	if s.relay != nil {
		s.relay.close()
		s.relay = nil
	}
	if s.shell != nil {
		_ = s.shell.Close()
	}
}

// output is what a command line prints on the machine.
func output(ctx context.Context, sh testbed.Shell, line string) (string, error) {
	var b bytes.Buffer
	err := sh.Run(ctx, testbed.Command{Line: line, Stdout: &b})
	return b.String(), err
}

// unsent is where refreshcfg keeps what it could not tell.
const unsent = "/var/lib/goldsmith/refreshcfg/unsent.json"

// pullEvery is how often a machine is asked that cannot tell.
const pullEvery = 2 * time.Second

// pullLine prints what is unsent, if it was written since the machine started:
// both times are by the machine's clock. What it kept from the start before says
// nothing of this one.
const pullLine = `f=` + unsent + `
if [ "$(stat -c %Y "$f" 2>/dev/null || echo 0)" -gt "$(sed -n 's/^btime //p' /proc/stat)" ]; then cat "$f"; fi`

// pull asks a machine without a network for its signal.
func (s *subject) pull(ctx context.Context) (machineapi.Signal, error) {
	var sig machineapi.Signal
	if s.shell == nil {
		if err := s.openLocal(); err != nil {
			return sig, err
		}
	}
	for {
		if err := s.shell.Wait(ctx); err != nil {
			return sig, err
		}
		text, err := output(ctx, s.shell, pullLine)
		if err == nil && text != "" {
			if err := json.Unmarshal([]byte(text), &sig); err != nil {
				return sig, fmt.Errorf("%s of the machine: %w", unsent, err)
			}
			return sig, nil
		}
		select {
		case <-ctx.Done():
			return sig, context.Cause(ctx)
		case <-time.After(pullEvery):
		}
	}
}
