package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	database "goldsmith/internal/store"
)

// A database that is not in the directory names the directory that belongs to it
// by a random text, which both keep: channels' tags, images and files of another
// directory are none of what its rows tell of.
const (
	storeFile    = "store-id" // in the directory
	storeSetting = "store"    // in the database
)

// belong refuses a directory that is not the database's. The first one that is
// used with it is.
func belong(ctx context.Context, db *database.DB, dir string) error {
	if within(db, dir) {
		return nil
	}
	file := filepath.Join(dir, storeFile)
	made := false
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case err == nil:
		made = true
		_, err = f.WriteString(rand.Text() + "\n")
		err = errors.Join(err, f.Close())
	case errors.Is(err, fs.ErrExist):
		err = nil
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	mine, has := strings.TrimSpace(string(text)), ""
	if mine == "" {
		return command.Busy(fmt.Errorf("%s: it is being made, or was left half made", file), "try again; remove it if it stays empty")
	}
	err = db.Tx(ctx, func(tx *database.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", storeSetting, mine); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT value FROM setting WHERE name = ?", storeSetting).Scan(&has)
	})
	if err == nil && has != mine {
		err = command.BadInput(fmt.Errorf("%s: the database %s belongs to another directory", dir, database.Redacted(db.Where())),
			"all who use it must use one directory, a shared one where they are on several machines; 'imgpipe backup' and 'restore' move a store")
	}
	if err != nil && made {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// within tells whether a database is the file in the directory.
func within(db *database.DB, dir string) bool {
	abs, err := filepath.Abs(filepath.Join(dir, "imgpipe.db"))
	return err == nil && abs == db.Where()
}

// adopt makes a new directory the database's, whichever was.
func adopt(ctx context.Context, db *database.DB, dir string) error {
	if within(db, dir) {
		return nil
	}
	var has string
	err := db.View(ctx, func(tx *database.Tx) error {
		return tx.QueryRow(ctx, "SELECT value FROM setting WHERE name = ?", storeSetting).Scan(&has)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, storeFile), []byte(has+"\n"), 0o644)
}
