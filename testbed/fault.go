package testbed

import "fmt"

// FaultKind says what is wrong with a machine or its controller, in one word
// that policies and retries decide by.
type FaultKind string

// The kinds of faults. None of them is the image's.
const (
	// Silent: the controller, or the machine, does not answer.
	Silent FaultKind = "silent"
	// Denied: it answers, and refuses our name, password or privilege.
	Denied FaultKind = "denied"
	// Unconfirmed: it accepted what it was told, but did not do it within the
	// time given, or says one thing and then another.
	Unconfirmed FaultKind = "unconfirmed"
	// Stolen: somebody else has what only one can have, the console.
	Stolen FaultKind = "stolen"
	// Lost: the machine was taken from us, by a recovery or an operator.
	Lost FaultKind = "lost"
	// Broken: it answers, but not as its protocol wants it.
	Broken FaultKind = "broken"
	// Unsupported: it cannot do this, and no retry will help.
	Unsupported FaultKind = "unsupported"
)

// Fault is an error about a machine's controller or hardware. Drivers return
// one, wrapped or not, for everything that is not a mistake of the caller.
type Fault struct {
	Kind    FaultKind
	Machine string // its name
	Doing   string // what was tried, such as "power off"
	Err     error  // what is known; must not be nil
}

func (f *Fault) Error() string {
	return fmt.Sprintf("machine %s: %s: %v (%s)", f.Machine, f.Doing, f.Err, f.Kind)
}

func (f *Fault) Unwrap() error { return f.Err }
