package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"goldsmith/internal/command"
	database "goldsmith/internal/store"
)

// act does what a person asks for by a command, and has it in the audit trail:
// by the transaction that does it where that says what it did, else afterwards;
// and when it fails, that it did. who is whom the command was told, request its
// words.
func act(ctx context.Context, db *database.DB, who, request string, do func(context.Context) error) error {
	return actBy(ctx, db, &database.Act{Entry: commanded(who, request)}, do)
}

// actEach is act for what takes several transactions: each has its entry.
func actEach(ctx context.Context, db *database.DB, who, request string, do func(context.Context) error) error {
	return actBy(ctx, db, &database.Act{Each: true, Entry: commanded(who, request)}, do)
}

func commanded(who, request string) database.Entry {
	return database.Entry{Who: who, Via: database.ByCommand, Peer: account(), Request: request}
}

func actBy(ctx context.Context, db *database.DB, a *database.Act, do func(context.Context) error) error {
	err := do(database.WithAct(ctx, a))
	if a.Written && err == nil {
		return nil
	}
	e := a.Entry
	e.At = time.Now()
	if err != nil {
		e.Status, e.Detail = command.Status(err), err.Error()
	}
	still := context.WithoutCancel(ctx)
	return errors.Join(err, db.Tx(still, func(tx *database.Tx) error { return tx.Note(still, e) }))
}

// account is the user that this process runs as: what the kernel says of it, and
// not what it was told.
func account() string {
	id := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.LookupId(fmt.Sprint(os.Getuid())); err == nil {
		id += " (" + u.Username + ")"
	}
	return id
}
