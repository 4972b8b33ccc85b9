package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"goldsmith/internal/machineapi"
	"goldsmith/internal/update"
	"goldsmith/testbed"
)

// verdict is what became of an image that a machine was told to run.
type verdict string

// The verdicts. An update is not settled before one that is not waiting.
const (
	waiting  verdict = ""         // nothing can be said yet
	proved   verdict = "proved"   // it runs, and is kept
	returned verdict = "returned" // it did not prove itself; the image before runs, and says so
	refused  verdict = "refused"  // it was not even tried
	unwell   verdict = "unwell"   // it is kept, but the machine's configuration fails
)

// judge says what became of the image with that digest, by the latest signal of
// the machine and by what imgupdate said after it; and why, when it is not
// proved. A signal may be older than the state: it may be from the image before,
// or from a start on trial.
func judge(digest string, sig machineapi.Signal, st *update.Status) (v verdict, why string) {
	runs := st.Record.Slots[st.Boot.Slot]
	if runs != nil && runs.Digest == digest {
		switch {
		case st.Trial || st.Waiting:
			return waiting, ""
		case sig.OK():
			return proved, ""
		}
		for _, f := range st.Record.Failed {
			if strings.Contains(sig.Reason+sig.Data, f.Digest) {
				return waiting, "" // it is about what was wanted before
			}
		}
		return unwell, sig.Reason
	}
	for _, f := range st.Record.Failed {
		if f.Digest != digest {
			continue
		}
		// The image before says why it is back when it has configured the machine.
		if st.Record.Trial == nil && !sig.OK() && strings.Contains(sig.Reason+sig.Data, digest) {
			return returned, f.Reason
		}
		return waiting, ""
	}
	if st.Record.Trial == nil && !sig.OK() {
		return refused, sig.Reason
	}
	return waiting, ""
}

// settled is how an update ended.
type settled struct {
	verdict verdict
	why     string
	seconds float64 // from the word to the verdict
}

// update has the machine run another image, and waits for what becomes of it.
// A console that shows a panic does not end that: machines return.
func (s *subject) update(ctx context.Context, digest, restart string) (settled, error) {
	s.drain(ctx)
	started := time.Now()
	if err := s.want(digest, restart); err != nil {
		return settled{}, err
	}
	for {
		sig, err := s.told.Signal(ctx)
		if err != nil {
			return settled{}, fmt.Errorf("the machine has not settled: %w", err)
		}
		fmt.Fprintf(s.job.Log, "signal: %s: %s\n", sig.Status, sig.Reason)
		st, err := s.status(ctx)
		if err != nil {
			return settled{}, err
		}
		if v, why := judge(digest, sig, st); v != waiting {
			return settled{v, why, time.Since(started).Seconds()}, nil
		}
	}
}

// status asks the machine about its slots.
func (s *subject) status(ctx context.Context) (*update.Status, error) {
	text, err := s.output(ctx, "imgupdate status --json")
	if err != nil {
		return nil, err
	}
	st := &update.Status{}
	if err := json.Unmarshal([]byte(text), st); err != nil || st.Record == nil {
		return nil, errors.Join(errors.New("imgupdate status --json is not as it should be"), err)
	}
	return st, nil
}

// bootID changes with every start.
func (s *subject) bootID(ctx context.Context) (string, error) {
	text, err := s.output(ctx, "cat /proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(text), err
}

// drain forgets the signals that have come already.
func (s *subject) drain(ctx context.Context) {
	for ctx.Err() == nil {
		soon, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, err := s.told.Signal(soon)
		cancel()
		if err != nil {
			return
		}
	}
}

// restart runs a command line that restarts the machine, and so may not return.
func (s *subject) restart(ctx context.Context, line string) error {
	s.drain(ctx)
	err := s.ssh.Run(ctx, testbed.Command{Line: line})
	if _, gone := errors.AsType[*testbed.UnreachableError](err); gone && ctx.Err() == nil {
		err = nil
	}
	_ = s.ssh.Close()
	return err
}

// awaitConfigured waits until a machine that was restarted, or got its power
// back, has configured itself, or dies on the console after mark.
func (s *subject) awaitConfigured(ctx context.Context, mark int64) error {
	sig, err := s.awaitSignal(ctx, mark)
	switch {
	case err != nil:
		return fmt.Errorf("it did not come back: %w", err)
	case !sig.OK():
		return shown(fmt.Sprintf("it came back and reports %s: %s", sig.Status, sig.Reason))
	}
	return nil
}
