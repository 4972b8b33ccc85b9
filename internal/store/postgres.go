package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver

	"goldsmith/internal/command"
)

const (
	// writerLock is the advisory lock that writers take: a number of ours.
	writerLock = 0x676f6c64736d // "goldsm"
	// channel is where writers notify.
	channel = "imgpipe"
	// maxConns bounds the connections of one process.
	maxConns = 8
)

func isPostgres(where string) bool {
	return strings.HasPrefix(where, "postgres://") || strings.HasPrefix(where, "postgresql://")
}

// Redacted is where without a password: what may be printed.
func Redacted(where string) string {
	if !isPostgres(where) {
		return where
	}
	u, err := url.Parse(where)
	if err != nil {
		return "postgres://…"
	}
	q := u.Query()
	if q.Has("password") {
		q.Set("password", "xxxxx")
		u.RawQuery = q.Encode()
	}
	return u.Redacted()
}

// Bounded is the URL of a PostgreSQL database with limits for what a process can
// do to others that is frozen or cut off: a transaction that nothing happens in
// ends, and its locks with it; a peer that is gone is noticed; nobody waits for a
// lock for ever. Limits that the URL has stay.
func Bounded(where string) string {
	u, err := url.Parse(where)
	if err != nil {
		return where
	}
	q := u.Query()
	for name, value := range map[string]string{"idle_in_transaction_session_timeout": "20s", "lock_timeout": "40s",
		"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"} {
		if !q.Has(name) {
			q.Set(name, value)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

func openPostgres(ctx context.Context, where string) (*DB, error) {
	if _, err := pgx.ParseConfig(where); err != nil {
		// The library's text may have the password.
		return nil, command.BadInput(fmt.Errorf("%s: not the URL of a PostgreSQL database", Redacted(where)),
			"expected such as postgres://user@host:5432/imgpipe?sslmode=verify-full")
	}
	pool, err := sql.Open("pgx", Bounded(where))
	if err != nil {
		return nil, err
	}
	pool.SetMaxOpenConns(maxConns)
	pool.SetMaxIdleConns(maxConns)
	db := &DB{write: pool, read: pool, where: where, pg: true}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(explainPostgres(where, err), db.Close())
	}
	return db, nil
}

func explainPostgres(where string, err error) error {
	if e, ok := errors.AsType[*command.Error](err); ok {
		return &command.Error{Status: e.Status, Hint: e.Hint, Err: fmt.Errorf("%s: %w", Redacted(where), e.Err)}
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return command.Hint(fmt.Errorf("%s: cannot reach it: %w", Redacted(where), err), "is the server running, and may this user log in?")
	}
	return fmt.Errorf("%s: %w", Redacted(where), err)
}
