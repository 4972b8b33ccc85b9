// Package store is imgpipe's database, whose tables are the truth about runs,
// tasks, nodes, leases and what happened to them: a SQLite file, or PostgreSQL
// where one machine is outgrown.
//
// It knows how to open, migrate and lock the database, and hides how the two
// differ: queries are written for SQLite, with '?' for arguments. On both, one
// transaction writes at a time, so that what it has read stays true until it
// commits. What the tables mean is said in schema/, and by the packages that
// read and write them. Times in it are milliseconds since 1970, UTC.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver

	"goldsmith/internal/command"
)

// schema holds the migrations, in the order of their names. One that was
// released is never edited; a change is a new file.
//
//go:embed schema/*.sql
var schema embed.FS

// DB is an open database. It is safe for several goroutines and processes.
type DB struct {
	write *sql.DB // one connection of a SQLite file: it has one writer
	read  *sql.DB
	where string // file name or URL
	pg    bool
	watch watch
}

// busy is how long a writer waits for another process's transaction.
const busy = 10 * time.Second

// Open opens a database and brings its tables up to date. where is a file, which
// is made, mode 0600, when it is not there; or a URL as PostgreSQL's programs
// take it (postgres://user@host/name). A database that a newer program made is
// refused, as is a file on a network file system, where SQLite's locks do not
// hold. The caller closes the DB.
func Open(ctx context.Context, where string) (*DB, error) {
	if isPostgres(where) {
		return openPostgres(ctx, where)
	}
	file, err := filepath.Abs(where)
	if err != nil {
		return nil, err
	}
	if err := prepare(file); err != nil {
		return nil, err
	}
	db := &DB{where: file}
	if db.write, err = connect(file, "immediate"); err == nil {
		db.write.SetMaxOpenConns(1)
		db.read, err = connect(file, "deferred")
	}
	if err == nil {
		db.read.SetMaxOpenConns(4)
		err = db.migrate(ctx)
	}
	if err != nil {
		return nil, errors.Join(explain(file, err), db.Close())
	}
	return db, nil
}

// Where is what the database was opened by, a file's name made absolute.
func (db *DB) Where() string { return db.where }

// Postgres tells whether the database is PostgreSQL.
func (db *DB) Postgres() bool { return db.pg }

// prepare makes the file, which others must not read.
func prepare(file string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	switch uint32(st.Type) {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.V9FS_MAGIC, unix.FUSE_SUPER_MAGIC:
		return command.BadInput(fmt.Errorf("%s: a database on a network file system loses data", file), "put it on a disk of this machine")
	}
	return nil
}

func connect(file, lock string) (*sql.DB, error) {
	q := url.Values{"_txlock": {lock}, "_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busy.Milliseconds()), "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)"}}
	return sql.Open("sqlite", (&url.URL{Scheme: "file", Path: file, RawQuery: q.Encode()}).String())
}

// explain names the file, and what to do about one that is damaged.
func explain(file string, err error) error {
	if e, ok := errors.AsType[*command.Error](err); ok {
		return &command.Error{Status: e.Status, Hint: e.Hint, Err: fmt.Errorf("%s: %w", file, e.Err)}
	}
	err = fmt.Errorf("%s: %w", file, err)
	if strings.Contains(err.Error(), "malformed") || strings.Contains(err.Error(), "not a database") {
		return command.BadInput(err, "it is damaged: bring it back from a backup, or move it away to begin anew")
	}
	return err
}

// migrate applies what the database has not seen yet.
func (db *DB) migrate(ctx context.Context) error {
	names, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(names)
	return db.Tx(ctx, func(tx *Tx) error {
		have, err := tx.version(ctx)
		if err != nil {
			return err
		}
		if have > len(names) {
			return command.BadInput(fmt.Errorf("made by a newer imgpipe (its schema is %d, this program knows %d)", have, len(names)),
				"use that program, or a backup from before")
		}
		for i, name := range names[have:] {
			text, err := schema.ReadFile(name)
			if err != nil {
				return err
			}
			if _, err := tx.tx.ExecContext(ctx, tx.definition(string(text))); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if err := tx.setVersion(ctx, have+i+1); err != nil {
				return err
			}
		}
		return nil
	})
}

// allSchema is the text of all parts of the schema, in their order.
func allSchema() (string, error) {
	names, err := fs.Glob(schema, "schema/*.sql")
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		text, err := schema.ReadFile(name)
		if err != nil {
			return "", err
		}
		b.Write(text)
	}
	return b.String(), nil
}

// Close closes the database. It may be called twice.
func (db *DB) Close() error {
	db.watch.stop()
	var errs []error
	for _, p := range []*sql.DB{db.read, db.write} {
		if p != nil {
			errs = append(errs, p.Close())
		}
	}
	return errors.Join(errs...)
}

// Millis is a time as the database keeps it, 0 for the zero time.
func Millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Time is the reverse of Millis.
func Time(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}
