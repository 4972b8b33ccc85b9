package store

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// A dump is the tables as text, for either kind of database: a line that says
// what it is, then one line a row, a JSON array that begins with the table's name
// and has the values in the order of the columns that the table's first line
// names. Bytes are an object with their base64.

type dumpHead struct {
	Dump   string `json:"imgpipe_dump"` // its form
	Schema int    `json:"schema"`
}

const dumpForm = "1"

// bytesValue is how bytes are written.
type bytesValue struct {
	Base64 string `json:"base64"`
}

// Dump writes all that the database has, as it is at one moment.
func (db *DB) Dump(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriter(w)
	e := json.NewEncoder(out)
	err := db.View(ctx, func(tx *Tx) error {
		have, err := tx.schema(ctx)
		if err != nil {
			return err
		}
		if err := e.Encode(dumpHead{dumpForm, have}); err != nil {
			return err
		}
		names, err := tables()
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := tx.dumpTable(ctx, e, name); err != nil {
				return fmt.Errorf("table %s: %w", name, err)
			}
		}
		return nil
	})
	return errors.Join(err, out.Flush())
}

// schema is version for a transaction that only reads.
func (t *Tx) schema(ctx context.Context) (n int, err error) {
	q := "PRAGMA user_version"
	if t.pg {
		q = "SELECT COALESCE(MAX(version), 0) FROM schema_version"
	}
	err = t.QueryRow(ctx, q).Scan(&n)
	return n, err
}

// tables are ours, each after those that it refers to: the order in which the
// schema makes them. The queue's own are not among them: what is in it is found
// again by looking.
func tables() ([]string, error) {
	text, err := allSchema()
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(text) {
		if name, ok := strings.CutPrefix(line, "CREATE TABLE "); ok {
			names = append(names, strings.Fields(name)[0])
		}
	}
	return names, nil
}

func (t *Tx) dumpTable(ctx context.Context, e *json.Encoder, name string) error {
	rows, err := t.Query(ctx, "SELECT * FROM "+name+" ORDER BY 1, 2")
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	head := []any{name}
	for _, c := range columns {
		head = append(head, c)
	}
	if err := e.Encode(head); err != nil {
		return err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		line := []any{name}
		for _, v := range values {
			if b, ok := v.([]byte); ok {
				v = bytesValue{base64.StdEncoding.EncodeToString(b)}
			}
			line = append(line, v)
		}
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	return rows.Err()
}

// addsSince is the part of the schema after which all others only add tables, and
// columns that have a value by themselves: rows from before fit as they are.
const addsSince = 5

// Load fills an empty database with a dump, of either kind of database, also one
// of a program that was a little older. When it fails nothing was changed.
func (db *DB) Load(ctx context.Context, r io.Reader) error {
	d := json.NewDecoder(bufio.NewReader(r))
	d.UseNumber()
	var head dumpHead
	if err := d.Decode(&head); err != nil || head.Dump != dumpForm {
		return command.BadInput(errors.New("no dump of imgpipe's database"), "'imgpipe backup' makes one")
	}
	return db.Tx(ctx, func(tx *Tx) error {
		have, err := tx.schema(ctx)
		if err != nil {
			return err
		}
		if head.Schema < addsSince || head.Schema > have {
			return command.BadInput(fmt.Errorf("the dump's schema is %d, this program's is %d", head.Schema, have),
				"restore it with the program that made it, and let this one bring it up to date")
		}
		names, err := tables()
		if err != nil {
			return err
		}
		for _, name := range names {
			var n int
			if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM "+name).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return command.BadInput(fmt.Errorf("the database is not empty: table %s has %d rows", name, n), "restore into a new one")
			}
		}
		if err := tx.loadRows(ctx, d, names); err != nil {
			return err
		}
		return tx.numberOn(ctx, names)
	})
}

func (t *Tx) loadRows(ctx context.Context, d *json.Decoder, names []string) error {
	insert, width, current := "", 0, ""
	for {
		var line []any
		if err := d.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return command.BadInput(fmt.Errorf("the dump is damaged: %w", err), "")
		}
		name, _ := first(line).(string)
		if !slices.Contains(names, name) {
			return command.BadInput(fmt.Errorf("the dump has a table %q that we do not know", name), "")
		}
		if name != current {
			var err error
			if insert, err = t.inserting(ctx, line); err != nil {
				return err
			}
			current, width = name, len(line)
			continue
		}
		if len(line) != width {
			return command.BadInput(fmt.Errorf("the dump is damaged: table %s has a row of %d values", name, len(line)-1), "")
		}
		args, err := loadable(line[1:])
		if err != nil {
			return err
		}
		if _, err := t.Exec(ctx, insert, args...); err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
}

func first(line []any) any {
	if len(line) == 0 {
		return nil
	}
	return line[0]
}

// inserting is the statement for the rows of a table, whose columns are those
// that the table has: no word of the dump becomes part of it otherwise.
func (t *Tx) inserting(ctx context.Context, line []any) (string, error) {
	name := line[0].(string)
	rows, err := t.Query(ctx, "SELECT * FROM "+name+" LIMIT 0")
	if err != nil {
		return "", err
	}
	defer rows.Close()
	known, err := rows.Columns()
	if err != nil {
		return "", err
	}
	var columns []string
	for _, c := range line[1:] {
		text, _ := c.(string)
		if !slices.Contains(known, text) || slices.Contains(columns, text) {
			return "", command.BadInput(fmt.Errorf("the dump is damaged: table %s has no column %q", name, text), "")
		}
		columns = append(columns, text)
	}
	if len(columns) == 0 {
		return "", command.BadInput(fmt.Errorf("the dump is damaged: table %s has no columns", name), "")
	}
	return fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", name, strings.Join(columns, ", "), strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")), nil
}

func loadable(values []any) ([]any, error) {
	for i, v := range values {
		switch v := v.(type) {
		case json.Number:
			n, err := v.Int64()
			if err != nil {
				return nil, command.BadInput(fmt.Errorf("the dump is damaged: %w", err), "")
			}
			values[i] = n
		case map[string]any:
			text, _ := v["base64"].(string)
			b, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return nil, command.BadInput(fmt.Errorf("the dump is damaged: %w", err), "")
			}
			values[i] = b
		}
	}
	return values, nil
}

// numberOn has PostgreSQL number new rows after those that were loaded; SQLite
// does so by itself.
func (t *Tx) numberOn(ctx context.Context, names []string) error {
	if !t.pg {
		return nil
	}
	for _, name := range names {
		var sequence sql.NullString
		err := t.QueryRow(ctx, `SELECT pg_get_serial_sequence(?, 'id') FROM information_schema.columns
			WHERE table_schema = current_schema() AND table_name = ? AND column_name = 'id'`, name, name).Scan(&sequence)
		if errors.Is(err, sql.ErrNoRows) || err == nil && !sequence.Valid {
			continue
		}
		if err == nil {
			_, err = t.Exec(ctx, "SELECT setval(?::regclass, (SELECT COALESCE(MAX(id), 0) + 1 FROM "+name+"), false)", sequence.String)
		}
		if err != nil {
			return fmt.Errorf("table %s: %w", name, err)
		}
	}
	return nil
}
