package ipmi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/transport"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// recorder owns a machine's serial over LAN: its goroutine has a session of its
// own, writes what the machine prints to a file, and comes back when the session
// ends.
type recorder struct {
	*dialer
	path string
	up   chan struct{} // closed when the first try has ended, either way
	most int64         // bytes that are kept

	mu     sync.Mutex // guards the fields below
	fault  error      // why nothing is recorded now; nil when it is
	bytes  int64      // printed by the machine since we began
	typed  io.Writer  // the stream's input; nil when there is none
	typist *serial    // who may type, or nil
}

// Pauses of the recorder.
const (
	retryFirst  = 500 * time.Millisecond // after a stream that broke; doubles
	retryMost   = 30 * time.Second
	retryBarred = 10 * time.Minute // after a refusal, which an operator must mend; some BMCs lock the account
	stealMost   = 16               // times SOLPause
	solPoll     = 50 * time.Millisecond
	firstWait   = 15 * time.Second
)

var errStarting = errors.New("not connected yet")

func newRecorder(d *dialer, path string) *recorder {
	r := &recorder{dialer: d, path: path, up: make(chan struct{}), most: maxConsole}
	r.fault = d.fault(testbed.Silent, "console", errStarting)
	return r
}

// first waits for the first try to connect.
func (r *recorder) first(ctx context.Context) {
	t := time.NewTimer(firstWait)
	defer t.Stop()
	select {
	case <-r.up:
	case <-t.C:
	case <-ctx.Done():
	}
}

// state is nil while the console is recorded.
func (r *recorder) state() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fault
}

// printed counts the machine's bytes. A nil recorder has seen none.
func (r *recorder) printed() int64 {
	if r == nil {
		return 0
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.bytes
}

// end wakes who waits for more, when recording has ended.
func (r *recorder) end() {
	if r == nil {
		return
	}
	r.mu.Lock()
	typist := r.typist
	r.mu.Unlock()
	if typist != nil {
		_ = typist.Close()
	}
}

// run records until ctx ends.
func (r *recorder) run(ctx context.Context) {
	var announce sync.Once
	tell := func() { announce.Do(func() { close(r.up) }) }
	defer tell()
	retry, steal := retryFirst, r.quirks.SOLPause
	for {
		began := time.Now()
		err := r.record(ctx, tell)
		if ctx.Err() != nil {
			return
		}
		r.lost(err)
		tell()
		var wait time.Duration
		switch lasted := time.Since(began); kindOf(err) {
		case testbed.Stolen:
			if lasted > stealMost*r.quirks.SOLPause {
				steal = r.quirks.SOLPause
			}
			wait, steal = steal, min(2*steal, stealMost*r.quirks.SOLPause)
			retry = retryFirst
		case testbed.Denied, testbed.Unsupported:
			wait = retryBarred
		default:
			if lasted > retryMost {
				retry = retryFirst
			}
			wait, retry = retry, min(2*retry, retryMost)
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// record logs in, takes the console, from whoever has it, and writes it down
// until that ends.
func (r *recorder) record(ctx context.Context, tell func()) error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return r.dialer.fault(testbed.Broken, "console", err)
	}
	defer f.Close()
	s, err := r.login(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	taken, err := r.activate(ctx, s)
	if err != nil {
		return err
	}
	r.connected(f, taken)
	tell()
	in, out := io.Pipe()
	r.typing(out)
	defer r.typing(nil)
	defer in.Close()
	defer out.Close()
	s.guard.reset()
	var stream error
	func() {
		defer recovered(&stream)
		stream = s.client.SOLStream(ctx, in, &ink{r, f}, &client.SOLStreamOptions{PollInterval: solPoll})
	}()
	if ctx.Err() != nil { // ours until the end: give it back
		r.deactivate(s)
		return ctx.Err()
	}
	return r.ended(ctx, s, stream)
}

// sol are the numbers of the payload (IPMI 2.0, table 13-16).
const instance = 1

// activate takes the console, and tells whether somebody else had it.
func (r *recorder) activate(ctx context.Context, s *session) (taken bool, err error) {
	const doing = "console"
	enable := r.quirks.SOLEnable
	for range 4 {
		if enable {
			if err := r.enable(ctx, s); err != nil {
				return taken, err
			}
		}
		var answer *types.ResponseError
		err = s.call(ctx, doing, func(ctx context.Context, c *client.Client) error {
			_, err := c.ActivatePayload(ctx, &transport.ActivatePayloadRequest{PayloadType: types.PayloadTypeSOL,
				PayloadInstance: instance, EnableEncryption: true, EnableAuthentication: true})
			answer, _ = types.IsResponseError(err)
			return err
		})
		if err == nil || answer == nil {
			return taken, err
		}
		switch code := answer.CompletionCode(); {
		case code == types.CodeActivatePayloadAlreadyActive && !taken:
			taken = true
			r.deactivate(s)
		case code == types.CodeActivatePayloadAlreadyActive, code == types.CodeActivatePayloadActivationLimitReached:
			return taken, r.dialer.fault(testbed.Stolen, doing, errors.New("another session has it"))
		case code == types.CodeActivatePayloadTypeDisabled && !enable:
			enable = true
		case code == types.CodeActivatePayloadTypeDisabled:
			return taken, r.dialer.fault(testbed.Unsupported, doing, errors.New("the BMC has no serial over LAN, or it is disabled"))
		default:
			return taken, err
		}
	}
	return taken, err
}

// enable switches serial over LAN on (IPMI 2.0, table 26-5). A BMC that does
// not know the parameter may still have the console.
func (r *recorder) enable(ctx context.Context, s *session) error {
	return s.call(ctx, "console", func(ctx context.Context, c *client.Client) error {
		_, err := c.SetSOLConfigParam(ctx, types.ChannelNumberSelf, types.SOLConfigParamSelector_SOLEnable, []byte{1})
		if _, answered := types.IsResponseError(err); answered {
			return nil
		}
		return err
	})
}

func (r *recorder) deactivate(s *session) {
	ctx, cancel := context.WithTimeout(context.Background(), closeWait)
	defer cancel()
	_ = s.call(ctx, "console", func(ctx context.Context, c *client.Client) error {
		_, err := c.DeactivatePayload(ctx, &transport.DeactivatePayloadRequest{PayloadType: types.PayloadTypeSOL, PayloadInstance: instance})
		return err
	})
}

// ended says why a stream ended: a BMC that still answers, but not on this
// console, has given it to somebody else or closed it.
func (r *recorder) ended(ctx context.Context, s *session, stream error) error {
	const doing = "console"
	if err := s.call(ctx, doing, ping); err != nil {
		return err
	}
	if stream == nil {
		stream = io.EOF
	}
	if gap(stream) {
		return r.dialer.fault(testbed.Broken, doing, stream)
	}
	return r.dialer.fault(testbed.Stolen, doing, fmt.Errorf("the BMC ended our session on it: %w", stream))
}
