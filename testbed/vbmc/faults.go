package vbmc

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"
)

// Fault is a way in which a BMC fails.
type Fault string

// The faults. Delay is Config.Delay.
const (
	// Silent: nothing is answered.
	Silent Fault = "silent"
	// WrongPassword: every login fails as if the password were wrong, and
	// logins from before are forgotten.
	WrongPassword Fault = "wrong-password"
	// EarlyOff: told to switch off, it says off at once, on again after half of
	// Delay, and switches the machine off after Delay.
	EarlyOff Fault = "early-off"
	// FalseOff: told to switch off, it says off, and the machine stays on.
	FalseOff Fault = "false-off"
	// IgnoreOff: told to switch off, it agrees and does nothing.
	IgnoreOff Fault = "ignore-off"
	// Slow: every answer comes after Delay.
	Slow Fault = "slow"
	// Garbage: answers are noise.
	Garbage Fault = "garbage"
	// ForgetBoot: boot flags are accepted and dropped.
	ForgetBoot Fault = "forget-boot"
	// DropConsole: the serial session ends now. It does not stay set.
	DropConsole Fault = "drop-console"
	// StealConsole: somebody else takes the serial session now, and keeps it
	// until it is taken from them or the fault is cleared.
	StealConsole Fault = "steal-console"
)

// Faults lists all kinds, sorted.
func Faults() []Fault {
	return []Fault{DropConsole, EarlyOff, FalseOff, ForgetBoot, Garbage, IgnoreOff, Silent, Slow, StealConsole, WrongPassword}
}

// faults is which faults there are now.
type faults struct {
	delay           time.Duration
	steal, giveBack func() // of the console

	mu  sync.Mutex // guards set
	set map[Fault]bool
}

func newFaults(delay time.Duration) *faults { return &faults{delay: delay, set: map[Fault]bool{}} }

func (f *faults) on(k Fault) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set[k]
}

// Faults returns the faults that are set, sorted.
func (b *BMC) Faults() []Fault {
	var list []Fault
	for _, k := range Faults() {
		if b.faults.on(k) {
			list = append(list, k)
		}
	}
	return list
}

// SetFaults makes these the faults there are, and no others.
func (b *BMC) SetFaults(list ...Fault) error {
	for _, k := range list {
		if !slices.Contains(Faults(), k) {
			return fmt.Errorf("fault %q: expected one of %v", string(k), Faults())
		}
	}
	f := b.faults
	f.mu.Lock()
	stole := f.set[StealConsole]
	f.set = map[Fault]bool{}
	for _, k := range list {
		f.set[k] = k != DropConsole
	}
	f.mu.Unlock()
	steals := slices.Contains(list, StealConsole)
	switch {
	case steals:
		f.steal()
	case slices.Contains(list, DropConsole):
		f.steal()
		f.giveBack()
	case stole:
		f.giveBack()
	}
	return nil
}

// faultyConn is the socket, with the faults that are seen there.
type faultyConn struct {
	*net.UDPConn
	faults *faults
	closed <-chan struct{}
}

// Where things are in an RMCP+ packet (IPMI 2.0, table 13-8).
const (
	atFormat   = 4
	atType     = 5
	atSession  = 6
	atPayload  = 16
	formatPlus = 6
)

// ReadFrom implements transport.PacketConn.
func (c *faultyConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.UDPConn.ReadFrom(p)
		if err != nil {
			return n, addr, err
		}
		inSession := n >= atPayload && p[atFormat] == formatPlus && binary.LittleEndian.Uint32(p[atSession:]) != 0
		if c.faults.on(Silent) || inSession && c.faults.on(WrongPassword) {
			continue
		}
		return n, addr, nil
	}
}

// WriteTo implements transport.PacketConn.
func (c *faultyConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if c.faults.on(Silent) {
		return len(p), nil
	}
	if c.faults.on(Slow) {
		t := time.NewTimer(c.faults.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	if c.faults.on(WrongPassword) && len(p) > atPayload && types.PayloadType(p[atType]&0x3f) == types.PayloadTypeRAKPMessage2 {
		p = slices.Clone(p)
		p[len(p)-1] ^= 1 // of the authentication code
	}
	if c.faults.on(Garbage) {
		p = slices.Clone(p)
		// Half of it keeps its header, and is noise only behind that.
		from := int(p[len(p)-1]&1) * min(atPayload, len(p)-1)
		_, _ = rand.Read(p[from:])
	}
	return c.UDPConn.WriteTo(p, addr)
}
