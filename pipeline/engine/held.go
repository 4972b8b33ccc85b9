package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"goldsmith/internal/store"
)

// Held is an attempt that a worker has.
type Held struct {
	Attempt int64
	Run     int64
	Stage   string
	Number  int
}

// Held returns the open attempt with that number, if it is the worker's. The
// error wraps ErrLost when it is not: of another's it says no more.
func (e *Engine) Held(ctx context.Context, attempt int64, worker string) (*Held, error) {
	h := &Held{Attempt: attempt}
	err := e.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(ctx, `SELECT CAST(task.run AS INTEGER), task.name, attempt.number FROM attempt JOIN task ON task.id = attempt.task
			WHERE attempt.id = ? AND attempt.worker = ? AND attempt.ended = 0`, attempt, worker).Scan(&h.Run, &h.Stage, &h.Number)
	})
	if errors.Is(err, sql.ErrNoRows) {
		err = fmt.Errorf("attempt %d: %w", attempt, ErrLost)
	}
	if err != nil {
		return nil, err
	}
	return h, nil
}
