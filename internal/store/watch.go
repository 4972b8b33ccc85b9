package store

import (
	"context"
	"database/sql"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// pollEvery is how often a SQLite file is looked at for what other processes
// wrote; one look reads a counter in shared memory.
const pollEvery = 200 * time.Millisecond

// watch tells when there is something new. Its zero value is ready.
type watch struct {
	mu      sync.Mutex
	changed chan struct{} // closed at the next change; nil: nobody waits
	cancel  context.CancelFunc
	done    chan struct{}
	stopped bool
}

// Changed returns a channel that is closed when something may have changed: a
// transaction that called [Tx.Wake] was committed, by this process or another.
// It may be closed for no reason.
func (db *DB) Changed() <-chan struct{} {
	w := &db.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed == nil {
		w.changed = make(chan struct{})
	}
	if w.cancel == nil && !w.stopped {
		ctx, cancel := context.WithCancel(context.Background())
		w.cancel, w.done = cancel, make(chan struct{})
		go func() {
			defer close(w.done)
			if db.pg {
				db.listen(ctx)
			} else {
				db.poll(ctx)
			}
		}()
	}
	return w.changed
}

func (w *watch) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.changed != nil {
		close(w.changed)
		w.changed = nil
	}
}

func (w *watch) stop() {
	w.mu.Lock()
	cancel, done := w.cancel, w.done
	w.stopped = true
	w.cancel = nil
	w.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
	w.wake()
}

// poll watches the counter of a SQLite file, which grows when another connection
// has written (https://www.sqlite.org/pragma.html#pragma_data_version).
func (db *DB) poll(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var conn *sql.Conn // the counter is a connection's own
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	var last int64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var now int64
		var err error
		if conn == nil {
			conn, err = db.read.Conn(ctx)
		}
		if err == nil {
			err = conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&now)
		}
		if err != nil && conn != nil {
			_ = conn.Close()
			conn = nil
		}
		if err != nil || now != last {
			last = now
			db.watch.wake()
		}
	}
}

// listen waits for notifications of a PostgreSQL server; while it cannot be
// reached it is tried again.
func (db *DB) listen(ctx context.Context) {
	for ctx.Err() == nil {
		db.listenOnce(ctx)
		db.watch.wake() // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (db *DB) listenOnce(ctx context.Context) {
	conn, err := pgx.Connect(ctx, Bounded(db.where))
	if err != nil {
		return
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it is of no use any more
	if _, err := conn.Exec(ctx, "LISTEN "+channel); err != nil {
		return
	}
	db.watch.wake()
	for {
		if _, err := conn.WaitForNotification(ctx); err != nil {
			return
		}
		db.watch.wake()
	}
}
