package store

import (
	"context"
	"strings"
	"time"

	"goldsmith/internal/command"
)

// Ways by which somebody comes whom the audit trail names.
const (
	ByHTTP    = "http"    // by a token, which nobody else has
	ByCommand = "command" // by a name that the program was told
)

// Entry is one of the audit trail: who asked for what, and what came of it.
type Entry struct {
	At      time.Time
	Who     string // empty: nobody is known
	Role    string // of a token
	Via     string
	Peer    string // address; of a command: the user who ran it
	Request string // method and path; of a command: its words
	Status  int    // of the answer; of a command: its exit status
	Detail  string
}

// maxDetail bounds what an entry keeps of others' words, in bytes.
const maxDetail = 500

// Note adds an entry to the audit trail, cleaned and bounded.
func (t *Tx) Note(ctx context.Context, e Entry) error {
	_, err := t.Exec(ctx, "INSERT INTO audit (at, who, role, via, peer, request, status, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
		Millis(e.At), e.Who, e.Role, e.Via, e.Peer, cleaned(e.Request), e.Status, cleaned(e.Detail))
	return err
}

func cleaned(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] + "…"
	}
	return command.Plain(strings.ToValidUTF8(s, ""))
}

// Act is what somebody does by a command: an entry of the audit trail that is
// written by the transaction that does it. It is for one goroutine.
type Act struct {
	Entry
	// Each has every transaction that does something add an entry, and not only
	// the first.
	Each bool
	// Written tells that a transaction has written it.
	Written bool
}

type actKey struct{}

// WithAct returns a context whose first transaction that does something
// ([Tx.Did]) adds an entry to the audit trail; each of them does for an act
// that says so.
func WithAct(ctx context.Context, a *Act) context.Context {
	return context.WithValue(ctx, actKey{}, a)
}

// Did says what the transaction has done, for the audit trail: where the
// transaction's context has an [Act], it is the entry's detail.
func (t *Tx) Did(what string) {
	if t.did == "" {
		t.did = what
	}
}

// note adds the entry of an act that the transaction does, and returns that.
func (t *Tx) note(ctx context.Context) (*Act, error) {
	a, _ := ctx.Value(actKey{}).(*Act)
	if a == nil || a.Written && !a.Each || t.did == "" {
		return nil, nil
	}
	e := a.Entry
	e.At, e.Detail = time.Now(), t.did
	return a, t.Note(ctx, e)
}
