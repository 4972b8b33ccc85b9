package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

// dialer makes sessions with one BMC.
type dialer struct {
	name, addr     string
	user, password string
	operator       bool
	sessions       string // directory with a file for each open session; empty: there are none
	network        testbed.Network
	quirks         Quirks // not changed once Open has returned, but for what mu guards

	mu sync.Mutex // guards quirks.CipherSuites, in which the suite that worked comes first
}

// session is a login. It is used by one goroutine at a time.
type session struct {
	*dialer
	client *client.Client
	guard  *guard
	since  time.Time // when what goes on began
}

// attempt is how long one packet is waited for before it is sent again, within
// a session: BMCs drop what comes twice there, by its number. Packets of the
// login have no number, so they get half of all the time each.
const attempt = time.Second

// closeWait bounds saying goodbye, which a BMC may leave unanswered.
const closeWait = time.Second

// errSuite says that the BMC does not do a cipher suite.
var errSuite = errors.New("the BMC does not have this cipher suite")

// login opens a session with the first cipher suite that the BMC accepts, and
// remembers it. The error is a testbed.Fault or the context's.
func (d *dialer) login(ctx context.Context) (*session, error) {
	d.mu.Lock()
	suites := append([]int(nil), d.quirks.CipherSuites...)
	d.mu.Unlock()
	var last error
	began := time.Now()
	for _, suite := range suites {
		s, err := d.loginPatiently(ctx, suite)
		s.since = began
		if err == nil {
			s.begins()
			d.mu.Lock()
			d.quirks.CipherSuites = first(suites, suite)
			d.mu.Unlock()
			return s, nil
		}
		last = s.classify(ctx, "log in", err)
		s.close()
		if kind := kindOf(last); !errors.Is(err, errSuite) && kind != testbed.Silent || s.guard.refused() {
			break
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// loginTries is how often a login is begun that may have failed of its own
// packets. It is not many: BMCs lock users who are refused too often.
const loginTries = 3

// loginPatiently begins anew when a BMC that was late got a step of the login
// twice, and refused: it has answered both, each with a random number of its own,
// and the next step fits one of them.
func (d *dialer) loginPatiently(ctx context.Context, suite int) (s *session, err error) {
	for range loginTries {
		if s, err = d.loginWith(ctx, suite); err == nil || !s.guard.repeated() || ctx.Err() != nil {
			return s, err
		}
		if kind := kindOf(s.classify(ctx, "log in", err)); kind != testbed.Denied && kind != testbed.Broken {
			return s, err
		}
		s.close()
	}
	return s, err
}

// first returns the list with v moved to its front.
func first(list []int, v int) []int {
	out := []int{v}
	for _, x := range list {
		if x != v {
			out = append(out, x)
		}
	}
	return out
}

func (d *dialer) loginWith(ctx context.Context, suite int) (*session, error) {
	g := &guard{user: d.user, password: d.password}
	host, port, err := net.SplitHostPort(d.addr)
	n, _ := strconv.Atoi(port)
	c, cerr := client.NewClient(host, n, d.user, d.password)
	s := &session{dialer: d, client: c, guard: g}
	if err := errors.Join(err, cerr); err != nil {
		return s, err
	}
	level := types.PrivilegeLevelAdministrator
	if d.operator {
		level = types.PrivilegeLevelOperator
	}
	wait := d.quirks.RequestWait
	c.WithCipherSuiteID(types.CipherSuiteID(suite)).WithMaxPrivilegeLevel(level).
		WithUDPProxy(dialFunc(func() (net.Conn, error) {
			conn, err := d.network.Dial(ctx, "udp", d.addr)
			g.Conn = conn
			return g, err
		})).
		WithTimeout(wait / 2).WithRetry(1)
	ctx, cancel := context.WithTimeout(ctx, 2*wait)
	defer cancel()
	if err := s.handshake(ctx, level); err != nil {
		return s, err
	}
	c.WithTimeout(attempt).WithRetry(max(int((wait-1)/attempt), 0))
	return s, nil
}

// handshake is IPMI 2.0, 13.15, without the question for authentication
// capabilities that may come before it.
func (s *session) handshake(ctx context.Context, level types.PrivilegeLevel) (err error) {
	defer recovered(&err)
	if _, err := s.client.OpenSession(ctx); err != nil {
		if s.guard.noSuite() {
			return fmt.Errorf("%w: %w", errSuite, err)
		}
		return err
	}
	if _, err := s.client.RAKPMessage1(ctx); err != nil {
		return err
	}
	if _, err := s.client.RAKPMessage3(ctx); err != nil {
		return err
	}
	_, err = s.client.SetSessionPrivilegeLevel(ctx, level)
	return err
}

// dialFunc is a proxy.Dialer that ignores what it is told to dial.
type dialFunc func() (net.Conn, error)

func (f dialFunc) Dial(string, string) (net.Conn, error) { return f() }

// call runs one exchange, or a few, and classifies what goes wrong.
func (s *session) call(ctx context.Context, doing string, f func(context.Context, *client.Client) error) error {
	s.guard.reset()
	s.since = time.Now()
	err := func() (err error) {
		defer recovered(&err)
		return f(ctx, s.client)
	}()
	if err == nil {
		return nil
	}
	return s.classify(ctx, doing, err)
}

// errPanic marks an answer on which the library fell over.
var errPanic = errors.New("an answer that cannot be read")

// recovered makes an error of a panic in go-ipmi.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", errPanic, r)
	}
}

// close ends the session, in bounded time and whatever the BMC says.
func (s *session) close() {
	if s.client == nil {
		return
	}
	if s.guard.loggedIn() {
		ctx, cancel := context.WithTimeout(context.Background(), closeWait)
		_ = s.call(ctx, "log out", func(ctx context.Context, c *client.Client) error {
			_, err := c.CloseSession(ctx, &app.CloseSessionRequest{SessionID: s.guard.bmcID()})
			return err
		})
		cancel()
	}
	s.ends()
	s.guard.hangUp()
}

// Pauses and tries of a BMC that says it is busy.
const (
	busyTries = 6
	busyPause = 500 * time.Millisecond
)

// do runs f in the machine's session, and logs in when there is none. A session
// that has died is replaced once, and a busy BMC asked again, so f may run
// several times; what must not goes through once.
func (m *Machine) do(ctx context.Context, doing string, f func(context.Context, *client.Client) error) error {
	return m.exchange(ctx, doing, true, f)
}

// once is do for what must not be done twice: it is never repeated when it may
// have reached the BMC.
func (m *Machine) once(ctx context.Context, doing string, f func(context.Context, *client.Client) error) error {
	return m.exchange(ctx, doing, false, f)
}

func (m *Machine) exchange(ctx context.Context, doing string, again bool,
	f func(context.Context, *client.Client) error) error {
	if err := m.acquire(ctx); err != nil {
		return fmt.Errorf("machine %s: %s: %w", m.name, doing, err)
	}
	defer m.release()
	for busy := 0; ; {
		if m.released {
			return fmt.Errorf("machine %s: %s: released", m.name, doing)
		}
		old := m.session != nil
		if !old {
			s, err := m.login(ctx)
			if err != nil {
				return err
			}
			m.session = s
		}
		err := m.session.call(ctx, doing, f)
		switch {
		case err == nil:
			return nil
		case isBusy(err) && busy < busyTries:
			busy++
			if !pause(ctx, busyPause) {
				return err
			}
		case kindOf(err) == testbed.Silent || kindOf(err) == testbed.Broken:
			m.session.close()
			m.session = nil
			if !old || !again || ctx.Err() != nil {
				return err
			}
		default:
			return err
		}
	}
}

// pause waits, and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
