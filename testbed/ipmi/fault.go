package ipmi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"

	"goldsmith/testbed"
)

func (d *dialer) fault(kind testbed.FaultKind, doing string, err error) error {
	return &testbed.Fault{Kind: kind, Machine: d.name, Doing: doing, Err: err}
}

// kindOf is the kind of fault that err is, or "".
func kindOf(err error) testbed.FaultKind {
	if f, ok := errors.AsType[*testbed.Fault](err); ok {
		return f.Kind
	}
	return ""
}

// busyError marks a BMC that asks to be asked again.
type busyError struct{ error }

func (b busyError) Unwrap() error { return b.error }

func isBusy(err error) bool {
	_, ok := errors.AsType[busyError](err)
	return ok
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// deadlineSlack is how long before its context's deadline a socket may time out.
const deadlineSlack = 5 * time.Millisecond

// classify makes a testbed.Fault of what go-ipmi returned. A cancelled caller
// is no fault; one whose time is over while nothing has been answered is told
// that.
func (s *session) classify(ctx context.Context, doing string, err error) error {
	if end, ok := ctx.Deadline(); ok && time.Until(end) < deadlineSlack {
		<-ctx.Done() // go-ipmi's sockets look at another clock
	}
	status, refusedLogin := errors.AsType[*types.RmcpStatusError](err)
	answer, answered := errors.AsType[*types.ResponseError](err)
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return fmt.Errorf("machine %s: %s: %w", s.name, doing, context.Canceled)
	case errors.Is(err, client.ErrRAKPAuthentication):
		return s.fault(testbed.Denied, doing, fmt.Errorf("%s refuses user %q: wrong password, or no such user", s.addr, s.user))
	case refusedLogin:
		return s.refusal(doing, status)
	case answered:
		return s.completion(doing, answer)
	case s.guard.noSuite():
		return s.fault(testbed.Unsupported, doing, fmt.Errorf("%s has none of the cipher suites %v", s.addr, s.quirks.CipherSuites))
	case s.guard.status != types.RmcpStatusCodeNoErrors:
		return s.refusal(doing, types.NewRmcpStatusError(s.guard.status))
	case s.guard.dropped() > 0:
		return s.fault(testbed.Broken, doing, fmt.Errorf("%s sends what is not IPMI, or not of our session (%d packets)",
			s.addr, s.guard.dropped()))
	case s.guard.refused() || isRefused(err):
		return s.fault(testbed.Silent, doing, fmt.Errorf("nothing listens at %s", s.addr))
	case ctx.Err() != nil:
		return s.fault(testbed.Silent, doing, fmt.Errorf("no answer from %s: %w", s.addr, context.Cause(ctx)))
	case timedOut(err):
		return s.fault(testbed.Silent, doing, fmt.Errorf("no answer from %s within %v", s.addr, time.Since(s.since).Round(100*time.Millisecond)))
	case unreachable(err):
		return s.fault(testbed.Silent, doing, fmt.Errorf("%s cannot be reached: %w", s.addr, root(err)))
	}
	return s.fault(testbed.Broken, doing, err)
}

// refusal is a login that the BMC refused (IPMI 2.0, table 13-15).
func (s *session) refusal(doing string, e *types.RmcpStatusError) error {
	kind := testbed.Denied
	switch e.StatusCode() {
	case types.RmcpStatusCodeNoResToCreateSess, types.RmcpStatusCodeNoResToCreateSessAtRole:
		kind = testbed.Stolen // others have all the sessions there are
	case types.RmcpStatusCodeInvalidSessionID, types.RmcpStatusCodeInactiveSessionID,
		types.RmcpStatusCodeInvalidPayloadType, types.RmcpStatusCodeIllegalParameter:
		kind = testbed.Broken
	}
	return s.fault(kind, doing, fmt.Errorf("%s refuses user %q: %s", s.addr, s.user, e.StatusCode()))
}

// completion is a command that the BMC refused (IPMI 2.0, table 5-2).
func (s *session) completion(doing string, e *types.ResponseError) error {
	switch e.CompletionCode() {
	case types.CodeInsufficientPrivilege, types.CodeSetSessionPrivilegeLevelExceedsLimit:
		return s.fault(testbed.Denied, doing, fmt.Errorf("user %q may not do this at %s: %w", s.user, s.addr, e))
	case types.CodeInvalidCommand, types.CodeInvalidCommandForLUN, types.CodeParameterOutOfRange,
		types.CodeRequestDataFieldInvalid, types.CodeIllegalCommand, types.CodeNotSupported,
		types.CodeSubFnDisabled, types.CodeParameterNotSupported:
		return s.fault(testbed.Unsupported, doing, e)
	case types.CodeNodeBusy, types.CodeProcessTimeout, types.CodeCannotProvideResponse,
		types.CodeCannotProvideResponseBMCInitialize, types.CodeCannotProvideResponseFirmwareUpdate,
		types.CodeCannotProvideResponseSDRRInUpdate, types.CodeReservationCanceled:
		return s.fault(testbed.Unconfirmed, doing, busyError{e})
	}
	return s.fault(testbed.Broken, doing, e)
}

// unmatched is the text of go-ipmi's error for "no datagram was the answer",
// which it does not export. With the guard in front, none came.
const unmatched = "udp exchange: no datagram matched before deadline"

func timedOut(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	return root(err).Error() == unmatched
}

func unreachable(err error) bool {
	for _, e := range []error{syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EACCES, syscall.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// root is the innermost error.
func root(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
