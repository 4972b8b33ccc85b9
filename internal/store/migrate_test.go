package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"goldsmith/internal/store"
)

// A file that any earlier program made is brought up to date, and keeps what was
// in it.
func TestOlderSchemas(t *testing.T) {
	parts, err := filepath.Glob("schema/*.sql")
	if err != nil || len(parts) < 5 {
		t.Fatalf("%q, %v", parts, err)
	}
	slices.Sort(parts)
	for n := 1; n < len(parts); n++ {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "db")
			old, err := sql.Open("sqlite", file)
			if err != nil {
				t.Fatal(err)
			}
			exec := func(q string) {
				t.Helper()
				if _, err := old.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
			for _, p := range parts[:n] {
				text, err := os.ReadFile(p)
				if err != nil {
					t.Fatal(err)
				}
				exec(string(text))
			}
			exec(fmt.Sprintf("PRAGMA user_version = %d", n))
			exec("INSERT INTO node (name, spec, declared, state, since) VALUES ('n1', '{}', 1, 'inspected', 1)")
			exec("INSERT INTO task (run, name, node, state, created) VALUES ('7', 'smoke', 'n1', 'done', 1)")
			exec("INSERT INTO event (at, kind, what) VALUES (1, 'task', 'it was so')")
			if err := old.Close(); err != nil {
				t.Fatal(err)
			}
			db := open(t, file)
			err = db.View(t.Context(), func(tx *store.Tx) error {
				var state, what string
				err := tx.QueryRow(t.Context(), "SELECT task.state, event.what FROM task, event, node WHERE task.node = node.name").Scan(&state, &what)
				if want := map[bool]string{true: "passed", false: "done"}[n < 3]; state != want || what != "it was so" {
					t.Errorf("state %q, event %q", state, what)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
			if err := set(t.Context(), db, "a", "b"); err != nil {
				t.Error(err)
			}
		})
	}
}
