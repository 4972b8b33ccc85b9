package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// Role is what the holder of a token may do.
type Role string

// The roles. Each may look; beyond that:
const (
	Viewer   Role = "viewer"   // nothing
	Operator Role = "operator" // begins, cancels and retries runs; promotes, holds, freezes
	Approver Role = "approver" // approves
	Admin    Role = "admin"    // everything, but for what workers do
	Work     Role = "worker"   // takes tasks and says how they went; does not look
)

// Roles are all of them.
func Roles() []Role { return []Role{Viewer, Operator, Approver, Admin, Work} }

// may tells whether r suffices where need is asked for.
func (r Role) may(need Role) bool {
	return r == need || need != Work && (r == Admin || need == Viewer && r != Work)
}

// secretPrefix begins all tokens, so that they are found where they must not be.
const secretPrefix = "gst_"

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}$`)

// Access is who may ask for what.
type Access struct {
	db  *store.DB
	now func() time.Time
}

// NewAccess returns the access that a database says.
func NewAccess(db *store.DB) *Access { return &Access{db, time.Now} }

// Token is one without its secret, which only its holder knows.
type Token struct {
	Name    string     `json:"name"`
	Role    Role       `json:"role"`
	MadeBy  string     `json:"made_by"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires,omitempty"` // nil: never
	Used    *time.Time `json:"used,omitempty"`    // last, to the minute; nil: never
}

// Add makes a token and returns its secret. A name has one token; lasts is how
// long it counts, 0 for ever.
func (a *Access) Add(ctx context.Context, name string, role Role, lasts time.Duration, by string) (secret string, err error) {
	switch {
	case !nameForm.MatchString(name):
		return "", command.Usage(fmt.Sprintf("token name %q: letters, digits and any of @._+- only, at most 64", name), "")
	case !slices.Contains(Roles(), role):
		return "", command.Usage(fmt.Sprintf("role %q: expected one of viewer, operator, approver, admin, worker", role), "")
	}
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails
	secret = secretPrefix + base64.RawURLEncoding.EncodeToString(b)
	now := a.now()
	expires := int64(0)
	if lasts > 0 {
		expires = store.Millis(now.Add(lasts))
	}
	err = a.db.Tx(ctx, func(tx *store.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM token WHERE name = ? AND revoked = 0", name).Scan(&n); err != nil {
			return err
		}
		if n > 0 {
			return command.Usage(fmt.Sprintf("%s has a token already", name), "'imgpipe token revoke "+name+"' ends it")
		}
		_, err := tx.Exec(ctx, "INSERT INTO token (name, role, hash, made_by, created, expires) VALUES (?, ?, ?, ?, ?, ?)",
			name, string(role), digest(secret), by, store.Millis(now), expires)
		tx.Did(fmt.Sprintf("token %s of role %s was made", name, role))
		return err
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// Revoke ends a token; by says who wants it.
func (a *Access) Revoke(ctx context.Context, name, by string) error {
	return a.db.Tx(ctx, func(tx *store.Tx) error {
		r, err := tx.Exec(ctx, "UPDATE token SET revoked = ?, revoked_by = ? WHERE name = ? AND revoked = 0", store.Millis(a.now()), by, name)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, command.BadInput(fmt.Errorf("%s has no token", name), "'imgpipe token ls' lists them"))
		}
		tx.Did(fmt.Sprintf("token %s was revoked", name))
		return nil
	})
}

// List returns the tokens that count, by name.
func (a *Access) List(ctx context.Context) (list []Token, err error) {
	err = a.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, "SELECT name, role, made_by, created, expires, used FROM token WHERE revoked = 0 ORDER BY name")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t Token
			var created, expires, used int64
			if err := rows.Scan(&t.Name, &t.Role, &t.MadeBy, &created, &expires, &used); err != nil {
				return err
			}
			t.Created, t.Expires, t.Used = store.Time(created), moment(expires), moment(used)
			list = append(list, t)
		}
		return rows.Err()
	})
	return list, err
}

func moment(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := store.Time(ms)
	return &t
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// errNobody says that a token is missing or does not count. It does not say
// which of it.
var errNobody = errors.New("no token, or one that does not count")

// who is whose token that is. What is compared are digests of secrets
// that nobody can guess, so how long that takes says nothing.
func (a *Access) who(ctx context.Context, secret string) (name string, role Role, err error) {
	if !strings.HasPrefix(secret, secretPrefix) || len(secret) > 100 {
		return "", "", errNobody
	}
	var id, expires, used int64
	now := a.now()
	err = a.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, "SELECT id, name, role, expires, used FROM token WHERE hash = ? AND revoked = 0", digest(secret)).Scan(&id, &name, &role, &expires, &used)
	})
	switch {
	case errors.Is(err, sql.ErrNoRows), err == nil && expires != 0 && expires <= store.Millis(now):
		return "", "", errNobody
	case err != nil:
		return "", "", err
	}
	if now.Sub(store.Time(used)) > time.Minute {
		err = a.db.Tx(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, "UPDATE token SET used = ? WHERE id = ?", store.Millis(now), id)
			return err
		})
	}
	return name, role, err
}

// Request is what somebody asked for: an entry of the audit trail.
type Request struct {
	ID   int64     `json:"id"`
	Time time.Time `json:"time"`
	// Via says by which way: http, where the name is a token's; or command, where
	// it is what imgpipe was told by the user that Peer names.
	Via     string `json:"via"`
	Who     string `json:"who,omitempty"` // empty: nobody's token
	Role    Role   `json:"role,omitempty"`
	Peer    string `json:"peer"`    // address, or user
	Request string `json:"request"` // method and path, or the command's words
	Status  int    `json:"status"`  // of the answer, or the command's exit status
	Detail  string `json:"detail,omitempty"`
}

// note writes a request down.
func (a *Access) note(ctx context.Context, r Request) error {
	return a.db.Tx(ctx, func(tx *store.Tx) error {
		return tx.Note(ctx, store.Entry{At: a.now(), Who: r.Who, Role: string(r.Role), Via: store.ByHTTP, Peer: r.Peer, Request: r.Request, Status: r.Status, Detail: r.Detail})
	})
}

// Audit returns the newest requests and commands that changed something or were
// refused, at most limit, oldest first.
func (a *Access) Audit(ctx context.Context, limit int) (list []Request, err error) {
	err = a.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id, at, via, who, role, peer, request, status, detail FROM audit ORDER BY id DESC LIMIT ?", limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r Request
			var at int64
			if err := rows.Scan(&r.ID, &at, &r.Via, &r.Who, &r.Role, &r.Peer, &r.Request, &r.Status, &r.Detail); err != nil {
				return err
			}
			r.Time = store.Time(at)
			list = append(list, r)
		}
		return rows.Err()
	})
	slices.Reverse(list)
	return list, err
}
