package step

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
		text, err := output(ctx, s.shell, "cat "+unsent+" 2>/dev/null || :")
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

// relay runs command lines of tests on the host, which are not written in Go,
// through a shell of ours. The command machine-ssh makes a directory with the
// line and its standard input, tells us its name through a named pipe, and waits
// at another one for the end.
type relay struct {
	shell testbed.Shell
	dir   string
	stop  context.CancelFunc
	asks  *os.File
	work  sync.WaitGroup
}

const relayScript = `#!/bin/sh
# Runs a command line on the machine, as ssh does.
set -eu
case ${1:-} in -*) echo "machine-ssh: no options: this stage does not use SSH" >&2; exit 255 ;; esac
dir=$(mktemp -d %[1]s/ask.XXXXXX)
trap 'rm -rf "$dir"' EXIT
printf '%%s' "$*" >"$dir/line"
cat >"$dir/in"
mkfifo "$dir/end"
printf '%%s\n' "${dir##*/}" >%[1]s/asks
read -r status <"$dir/end"
cat "$dir/out"
cat "$dir/err" >&2
exit "$status"
`

// startRelay serves machine-ssh, which it writes as a file.
func startRelay(sh testbed.Shell, dir, command string) (*relay, error) {
	ctx, stop := context.WithCancel(context.Background())
	r := &relay{shell: sh, dir: dir, stop: stop}
	asks := filepath.Join(dir, "asks")
	err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(filepath.Dir(command), 0o700))
	if err == nil {
		err = errors.Join(unix.Mkfifo(asks, 0o600), os.WriteFile(command, fmt.Appendf(nil, relayScript, testbed.Quote(dir)), 0o700))
	}
	if err == nil {
		// Open for writing, too: it does not end when nobody asks.
		r.asks, err = os.OpenFile(asks, os.O_RDWR, 0)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("command for tests: %w", err)
	}
	r.work.Go(func() {
		for lines := bufio.NewScanner(r.asks); lines.Scan(); {
			name := filepath.Base(lines.Text())
			r.work.Go(func() { r.answer(ctx, filepath.Join(dir, name)) })
		}
	})
	return r, nil
}

func (r *relay) close() {
	r.stop()
	_ = r.asks.Close()
	r.work.Wait()
	_ = os.RemoveAll(r.dir)
}

// unreached is the status of ssh when it cannot reach a machine.
const unreached = 255

// answer runs one command line.
func (r *relay) answer(ctx context.Context, dir string) {
	end, err := os.OpenFile(filepath.Join(dir, "end"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return // who asked is gone
	}
	defer end.Close()
	status, errs := 0, &bytes.Buffer{}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err == nil {
		err = errors.Join(r.run(ctx, dir, out, errs), out.Close())
	}
	if remote, ok := errors.AsType[*testbed.RemoteError](err); ok {
		if status = remote.Status; remote.Signal != "" {
			status = unreached // as ssh has it
		}
	} else if err != nil {
		status = unreached
		fmt.Fprintln(errs, err)
	}
	if os.WriteFile(filepath.Join(dir, "err"), errs.Bytes(), 0o600) != nil {
		status = unreached
	}
	_, _ = end.WriteString(strconv.Itoa(status) + "\n")
	// It is read before we close the pipe, or never.
	for range 200 {
		if _, err := os.Stat(dir); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (r *relay) run(ctx context.Context, dir string, out, errs interface{ Write([]byte) (int, error) }) error {
	line, err := os.ReadFile(filepath.Join(dir, "line"))
	if err != nil {
		return err
	}
	in, err := os.Open(filepath.Join(dir, "in"))
	if err != nil {
		return err
	}
	defer in.Close()
	return r.shell.Run(ctx, testbed.Command{Line: strings.TrimSpace(string(line)), Stdin: in, Stdout: out, Stderr: errs})
}
