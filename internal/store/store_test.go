package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

func open(t *testing.T, file string) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func set(ctx context.Context, db *store.DB, name, value string) error {
	return db.Tx(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(ctx, "INSERT INTO setting (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = setting.value || excluded.value", name, value)
		return err
	})
}

func get(t *testing.T, db *store.DB, name string) (value string) {
	t.Helper()
	err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT value FROM setting WHERE name = ?", name).Scan(&value)
	})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Two processes are two DBs: neither may see an error for the other's sake.
func TestSharedWriters(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		t.Run(kind, func(t *testing.T) {
			where := storetest.Where(t, kind)
			dbs := []*store.DB{open(t, where), open(t, where)}
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
		})
	}
}

func TestFileIsPrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dir", "db")
	open(t, file)
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
}

func TestTxIsWhole(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		boom := errors.New("boom")
		err := db.Tx(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(t.Context(), "INSERT INTO setting VALUES ('a', 'b')")
			return errors.Join(err, boom)
		})
		if !errors.Is(err, boom) {
			t.Error(err)
		}
		if err := set(t.Context(), db, "a", "c"); err != nil || get(t, db, "a") != "c" {
			t.Errorf("something of a failed transaction stays: %v", err)
		}
	})
}

// What one writer has read stays true until it commits: a counter that eight
// read and write back loses nothing.
func TestOneWriter(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := set(t.Context(), db, "n", "0"); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 10 {
					err := db.Tx(t.Context(), func(tx *store.Tx) error {
						var n int
						if err := tx.QueryRow(t.Context(), "SELECT value FROM setting WHERE name = 'n'").Scan(&n); err != nil {
							return err
						}
						return tx.One(t.Context(), "UPDATE setting SET value = ? WHERE name = 'n'", strconv.Itoa(n+1))
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if got := get(t, db, "n"); got != "80" {
			t.Errorf("%s, expected 80", got)
		}
	})
}

// Another process's change arrives within a second.
func TestChanged(t *testing.T) {
	for _, kind := range []string{"sqlite", "postgresql"} {
		t.Run(kind, func(t *testing.T) {
			where := storetest.Where(t, kind)
			here, there := open(t, where), open(t, where)
			<-here.Changed() // what it sees first
			time.Sleep(300 * time.Millisecond)
			changed := here.Changed()
			select {
			case <-changed:
				t.Fatal("changed, and nobody wrote")
			case <-time.After(300 * time.Millisecond):
			}
			err := there.Tx(t.Context(), func(tx *store.Tx) error {
				tx.Wake()
				_, err := tx.Exec(t.Context(), "INSERT INTO setting VALUES ('a', 'b')")
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
			case <-time.After(5 * time.Second):
				t.Error("nobody was told")
			}
		})
	}
}

// What PostgreSQL's text cannot hold must not fail an event.
func TestText(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := set(t.Context(), db, "a", "x\x00y\xff"); err != nil {
			t.Error(err)
		}
	})
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	newer := filepath.Join(dir, "newer")
	db := open(t, newer)
	if err := db.Tx(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(t.Context(), "PRAGMA user_version = 999"); return err }); err != nil {
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
		_, err := store.Open(t.Context(), file)
		if err == nil || command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v (status %d)", file, err, command.Status(err))
		}
	}
}

// A process that is frozen in a transaction does not keep others from writing for
// ever.
func TestFrozenWriter(t *testing.T) {
	where := storetest.Where(t, "postgresql") + "&idle_in_transaction_session_timeout=1s"
	frozen, other := open(t, where), open(t, where)
	held, thawed, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- frozen.Tx(context.Background(), func(*store.Tx) error { close(held); <-thawed; return nil })
	}()
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := set(ctx, other, "a", "b"); err != nil {
		t.Error(err)
	}
	close(thawed)
	if err := <-done; err == nil {
		t.Error("what was frozen was committed")
	}
}
