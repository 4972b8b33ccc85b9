package ipmi

import (
	"crypto/hmac"
	"encoding/binary"
	"errors"
	"net"
	"sync"

	"github.com/bougou/go-ipmi/pkg/crypto"
	"github.com/bougou/go-ipmi/pkg/types"
)

// guard is the socket of one session. It lets only those datagrams through to
// go-ipmi that belong there: complete, of the kind that is waited for, and
// within a session signed with the session's key and decrypting to something.
// go-ipmi itself checks no signatures of answers, and a malformed answer makes
// it panic in a goroutine of its own. The guard knows the keys because it
// sees the login pass and has the password.
//
// Formats: IPMI 2.0, 13.6 (packet), 13.17 to 13.24 (login), 13.28 (signatures).
type guard struct {
	net.Conn
	user, password string

	mu      sync.Mutex // guards the fields below
	expect  types.PayloadType
	status  types.RmcpStatusCode // what the BMC answered to the last step of the login
	garbage int                  // datagrams that were dropped
	refusal bool                 // nothing listens there (ICMP)
	ended   bool                 // the console's end was told
	closed  bool
	sent    types.PayloadType // the last step of the login
	twice   bool              // one was sent again

	wanted, algorithms [3]byte // authentication, integrity, confidentiality
	console, bmc       uint32  // session ids
	consoleRandom      []byte
	role               byte
	k1, k2             []byte
	active             bool
}

// Where things are in an RMCP+ packet.
const (
	atClass   = 3
	atFormat  = 4
	atType    = 5
	atSession = 6
	atLength  = 14
	atPayload = 16

	formatPlus    = 6
	flagEncrypted = 0x80
	flagSigned    = 0x40
)

// Write sends a packet and keeps what the answer must fit.
func (g *guard) Write(p []byte) (int, error) {
	g.sending(p)
	n, err := g.Conn.Write(p)
	g.note(err)
	return n, err
}

func (g *guard) sending(p []byte) {
	if len(p) < atPayload || p[atFormat] != formatPlus {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	b := p[atPayload:]
	t := types.PayloadType(p[atType] & 0x3f)
	g.twice = g.twice || t == g.sent && t != types.PayloadTypeIPMI && t != types.PayloadTypeSOL
	g.sent = t
	switch {
	case t == types.PayloadTypeRmcpOpenSessionRequest && len(b) >= 32:
		g.expect, g.active = types.PayloadTypeRmcpOpenSessionResponse, false
		g.wanted, g.console = [3]byte{b[12], b[20], b[28]}, binary.LittleEndian.Uint32(b[4:])
	case t == types.PayloadTypeRAKPMessage1 && len(b) >= 28:
		g.expect, g.consoleRandom, g.role = types.PayloadTypeRAKPMessage2, append([]byte(nil), b[8:24]...), b[24]
	case t == types.PayloadTypeRAKPMessage3:
		g.expect = types.PayloadTypeRAKPMessage4
	default:
		g.expect = types.PayloadTypeIPMI
	}
}

// Read waits for a datagram that is in order.
func (g *guard) Read(p []byte) (int, error) {
	for {
		n, err := g.Conn.Read(p)
		if err != nil {
			g.note(err)
			return n, err
		}
		g.mu.Lock()
		ok := g.admit(p[:n])
		if !ok {
			g.garbage++
		}
		ended := g.ended
		g.mu.Unlock()
		switch {
		case ended:
			return 0, errEnded
		case ok:
			return n, nil
		}
	}
}

// errEnded says that the BMC has told us the end of our console, which go-ipmi
// would overlook.
var errEnded = errors.New("the BMC deactivated it")

// admit is called with mu held.
func (g *guard) admit(p []byte) bool {
	if len(p) < atPayload || p[0] != types.RmcpVersion || p[atClass]&0x1f != 7 || p[atFormat] != formatPlus {
		return false
	}
	end := atPayload + int(binary.LittleEndian.Uint16(p[atLength:]))
	if end > len(p) {
		return false
	}
	t, session := types.PayloadType(p[atType]&0x3f), binary.LittleEndian.Uint32(p[atSession:])
	switch g.expect {
	case types.PayloadTypeRmcpOpenSessionResponse, types.PayloadTypeRAKPMessage2, types.PayloadTypeRAKPMessage4:
		return t == g.expect && session == 0 && p[atType] == byte(t) && g.step(t, p[atPayload:end])
	}
	if t != types.PayloadTypeIPMI && t != types.PayloadTypeSOL || !g.active || session != g.console {
		return false
	}
	plain, ok := g.open(p, end)
	// Table 15-2: status is the fourth byte, bit 4 "deactivating".
	g.ended = ok && t == types.PayloadTypeSOL && len(plain) > 3 && plain[3]&0x10 != 0
	return ok
}

// step follows the login. Answers that refuse it, some of two bytes only, are
// let through: go-ipmi makes errors of them.
func (g *guard) step(t types.PayloadType, b []byte) bool {
	if len(b) < 2 {
		return false
	}
	g.status = types.RmcpStatusCode(b[1])
	refused := g.status != types.RmcpStatusCodeNoErrors
	switch {
	case refused:
		return true
	case len(b) < 8:
		return false
	case t == types.PayloadTypeRmcpOpenSessionResponse:
		if len(b) < 36 || binary.LittleEndian.Uint32(b[4:]) != g.console {
			return false
		}
		g.bmc, g.algorithms = binary.LittleEndian.Uint32(b[8:]), [3]byte{b[16], b[24], b[32]}
		return g.algorithms == g.wanted // else it talks us into less than we asked for
	case t == types.PayloadTypeRAKPMessage2:
		return len(b) >= 40 && g.derive(b[8:24])
	}
	g.active = true // go-ipmi checks the rest of message 4
	return true
}

// derive computes the session's keys (IPMI 2.0, 13.31 and 13.32).
func (g *guard) derive(bmcRandom []byte) bool {
	alg := types.AuthAlg(g.algorithms[0])
	sik, err := crypto.DeriveSIK(alg, g.consoleRandom, bmcRandom, g.role, g.user, crypto.PadPassword20([]byte(g.password)))
	if err != nil {
		return false
	}
	k1, err1 := crypto.DeriveK1(alg, sik)
	k2, err2 := crypto.DeriveK2(alg, sik)
	g.k1, g.k2 = k1, k2
	return err1 == nil && err2 == nil
}

// open returns what is in a packet of the session, when that is signed with its
// key, and can be decrypted where it says that it is encrypted. end is the
// payload's.
func (g *guard) open(p []byte, end int) ([]byte, bool) {
	alg := types.IntegrityAlg(g.algorithms[1])
	n, ok := crypto.IntegrityAuthCodeLen(alg)
	if !ok || n == 0 || p[atType]&flagSigned == 0 || len(p) < end+2+n {
		return nil, false
	}
	signed := append([]byte(nil), p[atFormat:len(p)-n]...)
	code, err := crypto.SessionIntegrityAuthCode(alg, signed, g.k1, g.password)
	if err != nil || !hmac.Equal(code, p[len(p)-n:]) {
		return nil, false
	}
	b := p[atPayload:end]
	if p[atType]&flagEncrypted == 0 {
		return b, true
	}
	if len(b) < 32 || len(b)%16 != 0 {
		return nil, false
	}
	plain, err := crypto.DecryptAESPayload(b, g.k2)
	return plain, err == nil
}

// note keeps that nothing listens at the address.
func (g *guard) note(err error) {
	if err != nil && isRefused(err) {
		g.mu.Lock()
		g.refusal = true
		g.mu.Unlock()
	}
}

// Close implements net.Conn.
func (g *guard) Close() error {
	g.hangUp()
	return nil
}

func (g *guard) hangUp() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Conn != nil && !g.closed {
		g.closed, g.active = true, false
		_ = g.Conn.Close()
	}
}

// reset forgets what was counted for the last exchange.
func (g *guard) reset() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.garbage, g.refusal, g.ended = 0, false, false
}

func (g *guard) loggedIn() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.active && !g.closed
}

func (g *guard) bmcID() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.bmc
}

// repeated tells whether a step of the login was sent again.
func (g *guard) repeated() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.twice
}

func (g *guard) refused() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refusal
}

// dropped is how many datagrams were not in order.
func (g *guard) dropped() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.garbage
}

// noSuite tells whether the BMC refused the algorithms.
func (g *guard) noSuite() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.status {
	case types.RmcpStatusCodeInvalidAuthAlg, types.RmcpStatusCodeInvalidIntegrityAlg,
		types.RmcpStatusCodeNoMatchingAuthPayload, types.RmcpStatusCodeNoMatchingIntegrityPayload,
		types.RmcpStatusCodeInvalidConfidentAlg, types.RmcpStatusCodeNoCipherSuiteMatch,
		types.RmcpStatusCodeIllegalParameter, types.RmcpStatusCodeInvalidPayloadType:
		return true
	}
	return false
}
