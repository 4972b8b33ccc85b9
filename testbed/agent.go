package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// AgentCaller is a machine to whose QEMU guest agent commands can be given,
// without a network.
type AgentCaller interface {
	// CallAgent sends one request, a JSON object, and returns the answer, which
	// is one with the member "return" or "error"
	// (docs/interop/qemu-ga-ref.rst of QEMU).
	CallAgent(ctx context.Context, request []byte) ([]byte, error)
}

// GuestAgent is a Shell over QEMU's guest agent, for machines without a
// network. The machine's image needs the element qemu-guest-agent. It is safe
// for several goroutines. What it cannot do is say so while a command runs:
// output comes when the command has ended.
type GuestAgent struct {
	Name    string // the machine's, for errors
	Machine AgentCaller
}

var _ Shell = (*GuestAgent)(nil)

// Bounds of what goes through the agent, in bytes.
const (
	maxStdin  = 1 << 20   // of one command: it goes in one message
	agentPart = 128 << 10 // of a file, in one message
	maxFile   = 1 << 30   // of a file that is copied
)

// Times of a command: how long one answer may take, and how often it is asked
// whether the command has ended.
const (
	agentAnswer  = 10 * time.Second
	agentPollMin = 20 * time.Millisecond
	agentPollMax = 500 * time.Millisecond
)

// agentError is an agent's own "no".
type agentError struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *agentError) Error() string { return "the guest agent refuses: " + e.Desc }

// call gives the agent a command and decodes what it returns.
func (g *GuestAgent) call(ctx context.Context, command string, arguments, result any) error {
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	actx, cancel := context.WithTimeoutCause(ctx, agentAnswer, fmt.Errorf("no answer to %s within %v", command, agentAnswer))
	defer cancel()
	b, err := g.Machine.CallAgent(actx, request)
	if err != nil {
		return g.unreachable(ctx, err)
	}
	var a struct {
		Return json.RawMessage `json:"return"`
		Error  *agentError     `json:"error"`
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return g.unreachable(ctx, fmt.Errorf("%s: the answer is not the agent's: %w", command, err))
	}
	if a.Error != nil {
		return fmt.Errorf("machine %s: %s: %w", g.Name, command, a.Error)
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(a.Return, result); err != nil {
		return g.unreachable(ctx, fmt.Errorf("%s: the answer is not the agent's: %w", command, err))
	}
	return nil
}

func (g *GuestAgent) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &UnreachableError{By: "guest agent of", Addr: g.Name, Err: err}
}

// Wait implements Shell: the agent answers.
func (g *GuestAgent) Wait(ctx context.Context) error {
	for {
		last := g.call(ctx, "guest-ping", nil, nil)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no guest agent within the time given: %w", last)
		case <-time.After(retryPause):
		}
	}
}

// Close implements Shell; there is nothing to close.
func (g *GuestAgent) Close() error { return nil }

// execStatus is what guest-exec-status returns. The data is base64 in JSON.
type execStatus struct {
	Exited       bool   `json:"exited"`
	ExitCode     int    `json:"exitcode"`
	Signal       int    `json:"signal"`
	Out          []byte `json:"out-data"`
	Err          []byte `json:"err-data"`
	OutTruncated bool   `json:"out-truncated"`
	ErrTruncated bool   `json:"err-truncated"`
}

// Run implements Shell. Standard input may have 1 MiB; output beyond what the
// agent keeps, 16 MiB, is an error. When ctx ends the command is killed on the
// machine, if that can be reached.
func (g *GuestAgent) Run(ctx context.Context, c Command) error {
	// In a session of its own, so that kill ends all that it has started.
	arguments := map[string]any{"path": "setsid", "arg": []string{"/bin/sh", "-c", c.Line}, "capture-output": true}
	if c.Stdin != nil {
		in, err := io.ReadAll(io.LimitReader(c.Stdin, maxStdin+1))
		if err != nil {
			return fmt.Errorf("standard input of %s: %w", firstLine(c.Line), err)
		}
		if len(in) > maxStdin {
			return fmt.Errorf("standard input of %s: more than %d bytes do not go through the guest agent; Put a file", firstLine(c.Line), maxStdin)
		}
		arguments["input-data"] = in
	}
	var started struct {
		PID int64 `json:"pid"`
	}
	if err := g.call(ctx, "guest-exec", arguments, &started); err != nil {
		return err
	}
	status, err := g.ended(ctx, started.PID)
	if err != nil {
		return err
	}
	return status.deliver(c)
}

// ended waits until a process has ended.
func (g *GuestAgent) ended(ctx context.Context, pid int64) (execStatus, error) {
	arguments := map[string]int64{"pid": pid}
	for pause := agentPollMin; ; pause = min(2*pause, agentPollMax) {
		var s execStatus
		err := g.call(ctx, "guest-exec-status", arguments, &s)
		if err == nil && s.Exited {
			return s, nil
		}
		if err != nil && ctx.Err() == nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			g.kill(pid)
			return s, g.unreachable(ctx, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// kill ends a command and what it has started. Where it fails, nobody is there
// to be told.
func (g *GuestAgent) kill(pid int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = g.call(ctx, "guest-exec", map[string]any{"path": "/bin/sh", "arg": []string{"-c", fmt.Sprintf("kill -KILL -%d", pid)}}, nil)
}

// deliver passes on what a command printed and how it ended.
func (s execStatus) deliver(c Command) error {
	for _, o := range []struct {
		w    io.Writer
		data []byte
	}{{c.Stdout, s.Out}, {c.Stderr, s.Err}} {
		if o.w == nil {
			continue
		}
		if _, err := o.w.Write(o.data); err != nil {
			return err
		}
	}
	last := &tail{max: 4 << 10}
	_, _ = last.Write(s.Err) // never fails
	switch {
	case s.Signal != 0:
		name := strings.TrimPrefix(unix.SignalName(unix.Signal(s.Signal)), "SIG")
		return &RemoteError{Command: c.Line, Status: -1, Signal: name, Stderr: last.String()}
	case s.ExitCode != 0:
		return &RemoteError{Command: c.Line, Status: s.ExitCode, Stderr: last.String()}
	case s.OutTruncated || s.ErrTruncated:
		return fmt.Errorf("%s: it printed more than the guest agent keeps; Get a file", firstLine(c.Line))
	}
	return nil
}

// Output runs a command line and returns its standard output.
func (g *GuestAgent) Output(ctx context.Context, line string) (string, error) {
	var b bytes.Buffer
	err := g.Run(ctx, Command{Line: line, Stdout: &b})
	return b.String(), err
}

// Put implements Shell. A file may have 1 GiB.
func (g *GuestAgent) Put(ctx context.Context, src, dst string, mode os.FileMode) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	part := dst + ".goldsmith-part"
	// Made before it is written: the agent itself makes files that all can read.
	if err := g.Run(ctx, Command{Line: "umask 077 && : >" + Quote(part)}); err != nil {
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	err = g.write(ctx, f, part)
	if err == nil {
		err = g.Run(ctx, Command{Line: fmt.Sprintf("chmod %o %s && mv -f %s %s", mode.Perm(), Quote(part), Quote(part), Quote(dst))})
	}
	if err != nil {
		_ = g.Run(context.WithoutCancel(ctx), Command{Line: "rm -f " + Quote(part)})
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	return nil
}

// withFile opens a file of the machine and closes it after f.
func (g *GuestAgent) withFile(ctx context.Context, path, mode string, f func(handle int64) error) error {
	var handle int64
	if err := g.call(ctx, "guest-file-open", map[string]string{"path": path, "mode": mode}, &handle); err != nil {
		return err
	}
	err := f(handle)
	return errors.Join(err, g.call(context.WithoutCancel(ctx), "guest-file-close", map[string]int64{"handle": handle}, nil))
}

func (g *GuestAgent) write(ctx context.Context, src io.Reader, dst string) error {
	return g.withFile(ctx, dst, "r+", func(handle int64) error {
		b := make([]byte, agentPart)
		for total := 0; ; {
			n, err := io.ReadFull(src, b)
			if total += n; total > maxFile {
				return fmt.Errorf("more than %d bytes", maxFile)
			}
			if n > 0 {
				var done struct {
					Count int `json:"count"`
				}
				werr := g.call(ctx, "guest-file-write", map[string]any{"handle": handle, "buf-b64": b[:n]}, &done)
				if werr == nil && done.Count != n {
					werr = fmt.Errorf("%d of %d bytes were written", done.Count, n)
				}
				if werr != nil {
					return werr
				}
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
	})
}

// Get implements Shell: dst gets mode 0600. A file may have 1 GiB.
func (g *GuestAgent) Get(ctx context.Context, src, dst string) error {
	f, err := atomicfile.Create(dst, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	err = g.withFile(ctx, src, "r", func(handle int64) error {
		for total := 0; ; {
			var part struct {
				Data []byte `json:"buf-b64"`
				EOF  bool   `json:"eof"`
			}
			if err := g.call(ctx, "guest-file-read", map[string]int64{"handle": handle, "count": agentPart}, &part); err != nil {
				return err
			}
			if total += len(part.Data); total > maxFile || len(part.Data) > agentPart {
				return fmt.Errorf("more than %d bytes", maxFile)
			}
			if _, err := f.Write(part.Data); err != nil {
				return err
			}
			if part.EOF || len(part.Data) == 0 {
				return nil
			}
		}
	})
	if err != nil {
		return fmt.Errorf("copy from %s: %w", filepath.Base(src), err)
	}
	return f.Commit()
}
