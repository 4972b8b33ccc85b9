package store_test

import (
	"bytes"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
)

// A dump goes from each kind of database to each, and comes back the same; rows
// are numbered on after those that were there.
func TestDump(t *testing.T) {
	ctx := t.Context()
	for _, from := range []string{"sqlite", "postgresql"} {
		for _, to := range []string{"sqlite", "postgresql"} {
			t.Run(from+" to "+to, func(t *testing.T) {
				a, b := open(t, storetest.Where(t, from)), open(t, storetest.Where(t, to))
				err := a.Tx(ctx, func(tx *store.Tx) error {
					for i := range 3 {
						if _, err := tx.Insert(ctx, "INSERT INTO event (at, kind, what) VALUES (?, 'x', ?)", i, "it's \"quoted\" \u2192 \n"); err != nil {
							return err
						}
					}
					_, err := tx.Exec(ctx, "INSERT INTO content (sha256, bytes) VALUES ('a', ?)", []byte{0, 1, 0xff})
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				var first, second bytes.Buffer
				if err := a.Dump(ctx, &first); err != nil {
					t.Fatal(err)
				}
				if err := b.Load(ctx, bytes.NewReader(first.Bytes())); err != nil {
					t.Fatal(err)
				}
				if err := b.Dump(ctx, &second); err != nil {
					t.Fatal(err)
				}
				if first.String() != second.String() {
					t.Errorf("the dump of what was loaded differs:\n%s\n%s", first.String(), second.String())
				}
				err = b.Tx(ctx, func(tx *store.Tx) error {
					id, err := tx.Insert(ctx, "INSERT INTO event (at, kind, what) VALUES (1, 'x', 'y')")
					if id != 4 {
						t.Errorf("the next row is number %d", id)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
				if err := b.Load(ctx, &first); err == nil || !strings.Contains(err.Error(), "not empty") {
					t.Errorf("into a database that has something: %v", err)
				}
			})
		}
	}
}

func TestDumpHostile(t *testing.T) {
	head := `{"imgpipe_dump":"1","schema":` + schemaNow(t) + "}\n"
	for _, text := range []string{"", "x", `{"imgpipe_dump":"2","schema":1}`, `{"imgpipe_dump":"1","schema":99}`, head + "[1]", head + "[]", head + `["nothere","id"]`,
		head + `["setting"]`, head + `["setting","name) VALUES (1); DROP TABLE run; --"]`, head + `["setting","name","value"]` + "\n" + `["setting","a"]`,
		head + `["setting","name","value"]` + "\n" + `["setting","a",{"base64":"!"}]`, head + `["setting","name","value"]` + "\n" + `["setting","a",1e99]`, head + "{"} {
		db := open(t, storetest.Where(t, "sqlite"))
		if err := db.Load(t.Context(), strings.NewReader(text)); err == nil || command.Status(err) != command.StatusUsage {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func schemaNow(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	if err := open(t, storetest.Where(t, "sqlite")).Dump(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(b.String(), "\n")
	_, n, _ := strings.Cut(strings.TrimSuffix(line, "}"), `"schema":`)
	return n
}

// A dump from before the newest parts of the schema is loaded, too; what it does
// not have has its usual value.
func TestOlderDump(t *testing.T) {
	old := `{"imgpipe_dump":"1","schema":5}
["audit","id","at","who","role","peer","request","status","detail"]
["audit",3,1000,"op","operator","127.0.0.1","POST /v1/runs",200,""]
`
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Load(t.Context(), strings.NewReader(old)); err != nil {
			t.Fatal(err)
		}
		err := db.View(t.Context(), func(tx *store.Tx) error {
			var who, via string
			err := tx.QueryRow(t.Context(), "SELECT who, via FROM audit WHERE id = 3").Scan(&who, &via)
			if who != "op" || via != store.ByHTTP {
				t.Errorf("%s by %s", who, via)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}
