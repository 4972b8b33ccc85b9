package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"goldsmith/internal/command"
)

func open(t *testing.T, file string) *DB {
	t.Helper()
	db, err := Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func set(ctx context.Context, db *DB, name, value string) error {
	return db.Tx(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = value || excluded.value", name, value)
		return err
	})
}

func get(t *testing.T, db *DB, name string) (value string) {
	t.Helper()
	err := db.View(t.Context(), func(tx *sql.Tx) error {
		return tx.QueryRow("SELECT value FROM setting WHERE name = ?", name).Scan(&value)
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Two processes are two DBs: neither may see an error for the other's sake.
func TestSharedWriters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dir", "db")
	dbs := []*DB{open(t, file), open(t, file)}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				if err := set(t.Context(), dbs[i%2], "a", "x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := get(t, dbs[0], "a"); len(got) != 160 {
		t.Errorf("%d of 160 writes are there", len(got))
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestTxIsWhole(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "db"))
	boom := errors.New("boom")
	err := db.Tx(t.Context(), func(tx *sql.Tx) error {
		_, err := tx.Exec("INSERT INTO setting VALUES ('a', 'b')")
		return errors.Join(err, boom)
	})
	if !errors.Is(err, boom) {
		t.Error(err)
	}
	if err := set(t.Context(), db, "a", "c"); err != nil || get(t, db, "a") != "c" {
		t.Errorf("something of a failed transaction stays: %v", err)
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer")
	db := open(t, newer)
	if err := db.Tx(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec("PRAGMA user_version = 999"); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(dir, "damaged")
	if err := os.WriteFile(damaged, []byte(strings.Repeat("this is not a database\n", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{newer: "newer imgpipe", damaged: "not a database"} {
		_, err := Open(t.Context(), file)
		if err == nil || command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v (status %d)", file, err, command.Status(err))
		}
	}
}
