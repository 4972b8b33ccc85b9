// Package engine drives runs of pipelines. Its tables are the truth: runs,
// their stages as tasks, attempts at them, workers, and every decision with
// what it was made of (internal/store/schema). Processes come and go around
// them.
//
// What happens next is decided by [Plan], a pure function of a [Snapshot] and a
// [Policy]. [Engine.Advance] reads the snapshot, asks it, does what it says and
// records all three, in one transaction. Advancing is asked for through a
// [Dispatcher], a durable queue; doing it twice does no harm. The work itself is
// done by workers ([Worker]), which take tasks from a [Hub]: the engine itself,
// or one that is reached by HTTP. A worker's hold on its attempt is a heartbeat;
// when that stops, the attempt is lost, and whatever the worker says later is
// refused.
package engine

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
)

// Engine is the runs of one database. It is safe for several goroutines;
// several processes may have one each.
type Engine struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log takes what nobody asked for; nil means nothing is said.
	Log *slog.Logger

	db       *store.DB
	dispatch Dispatcher
	policies sync.Map // content → Policy
}

// New returns the engine of a database. Without a dispatcher ([Engine.Use]) it
// advances runs at once, itself, and nothing that is due later.
func New(db *store.DB) *Engine { return &Engine{db: db} }

// Use has d deliver what the engine asks for.
func (e *Engine) Use(d Dispatcher) { e.dispatch = d }

// Store is the engine's database.
func (e *Engine) Store() *store.DB { return e.db }

func (e *Engine) now() time.Time {
	t := time.Now()
	if e.Now != nil {
		t = e.Now()
	}
	return t.UTC().Truncate(time.Millisecond)
}

func (e *Engine) log() *slog.Logger {
	if e.Log != nil {
		return e.Log
	}
	return slog.New(slog.DiscardHandler)
}

// enqueue asks for runs to be advanced. What cannot be asked for is found by
// the next sweep, so a failure is said and no more.
func (e *Engine) enqueue(ctx context.Context, at time.Time, runs ...int64) {
	for _, run := range runs {
		if e.dispatch == nil {
			if _, err := e.Advance(context.WithoutCancel(ctx), run, "something happened", ""); err != nil {
				e.log().Warn("cannot advance a run; a sweep will find it", "run", run, "error", err)
			}
			continue
		}
		if err := e.dispatch.Enqueue(context.WithoutCancel(ctx), run, at); err != nil {
			e.log().Warn("cannot ask for a run to be advanced; a sweep will find it", "run", run, "error", err)
		}
	}
}

// Submission is a run to be made.
type Submission struct {
	Pipeline *pipeline.Pipeline
	File     string // where the pipeline was read, absolute
	Author   string // of what is built; never counts as one who approves
	Actor    string // who submits
	// Host names the only worker that may work on it; empty means any.
	Host string
}

// Submit makes a run and returns its number. Where the pipeline says so, older
// runs of its group are superseded.
func (e *Engine) Submit(ctx context.Context, s Submission) (id int64, err error) {
	policy, err := json.Marshal(PolicyOf(s.Pipeline))
	if err != nil {
		return 0, err
	}
	inputs, err := json.Marshal(s.Pipeline.Inputs)
	if err != nil {
		return 0, err
	}
	var older []int64
	err = e.db.Tx(ctx, func(tx *store.Tx) error {
		source, err := putContent(ctx, tx, s.Pipeline.Content())
		if err != nil {
			return err
		}
		pol, err := putContent(ctx, tx, policy)
		if err != nil {
			return err
		}
		id, err = tx.Insert(ctx, `INSERT INTO run (pipeline, file, source, policy, inputs, grp, author, host, state, created, begun)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, s.Pipeline.Name, s.File, source, pol, string(inputs), s.Pipeline.Group, s.Author, s.Host,
			pipeline.Running, store.Millis(e.now()), store.Millis(e.now()))
		if err != nil {
			return err
		}
		if err := e.addTasks(ctx, tx, id, s.Pipeline); err != nil {
			return err
		}
		if s.Pipeline.Group != "" && s.Pipeline.Supersede {
			if older, err = supersede(ctx, tx, id, s.Pipeline); err != nil {
				return err
			}
		}
		tx.Wake()
		return e.event(ctx, tx, id, "run", s.Actor, "submitted: pipeline %s", s.Pipeline.Name)
	})
	if err != nil {
		return 0, err
	}
	e.enqueue(ctx, time.Time{}, append(older, id)...)
	return id, nil
}

func (e *Engine) addTasks(ctx context.Context, tx *store.Tx, run int64, p *pipeline.Pipeline) error {
	ids := map[string]int64{}
	for i, s := range PolicyOf(p).Stages {
		id, err := tx.Insert(ctx, "INSERT INTO task (run, name, state, created, stage) VALUES (?, ?, ?, ?, ?)",
			runName(run), s.Name, pipeline.Todo, store.Millis(e.now()), i)
		if err != nil {
			return err
		}
		ids[s.Name] = id
	}
	for _, s := range PolicyOf(p).Stages {
		for _, n := range s.Needs {
			if err := tx.One(ctx, "INSERT INTO task_need (task, needs) VALUES (?, ?)", ids[s.Name], ids[n]); err != nil {
				return err
			}
		}
	}
	return nil
}

// supersede has a new run take the place of the older ones of its group.
func supersede(ctx context.Context, tx *store.Tx, id int64, p *pipeline.Pipeline) ([]int64, error) {
	older, err := ids(ctx, tx, "SELECT id FROM run WHERE ended = 0 AND newer = 0 AND pipeline = ? AND grp = ? AND id < ? ORDER BY id", p.Name, p.Group, id)
	for _, o := range older {
		if err := tx.One(ctx, "UPDATE run SET newer = ? WHERE id = ?", id, o); err != nil {
			return nil, err
		}
	}
	return older, err
}

// Cancel asks a run to end: what is running is told to stop, nothing more is
// begun. A run that has ended is left as it is, and the error says so.
func (e *Engine) Cancel(ctx context.Context, run int64, actor, why string) error {
	reason := "cancelled by " + actor
	if why != "" {
		reason += ": " + why
	}
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		if err := e.mustBe(ctx, tx, run, false); err != nil {
			return err
		}
		tx.Wake()
		if err := tx.One(ctx, "UPDATE run SET cancel = ? WHERE id = ?", reason, run); err != nil {
			return err
		}
		return e.event(ctx, tx, run, "operator", actor, "cancel: %s", why)
	})
	if err != nil {
		return err
	}
	// Not through the queue: who cancels wants to see it happen.
	_, err = e.Advance(ctx, run, reason, actor)
	return err
}

// Retry has stages that failed done again, and those that were skipped for them:
// all such, or the one named. What has passed is kept. host is as in
// [Submission].
func (e *Engine) Retry(ctx context.Context, run int64, stage, actor, host string) error {
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		if err := e.mustBe(ctx, tx, run, true); err != nil {
			return err
		}
		r, err := tx.Exec(ctx, `UPDATE task SET pardon = (SELECT COUNT(*) FROM attempt WHERE attempt.task = task.id AND attempt.state = 'failed'),
			state = CASE WHEN state IN ('failed', 'skipped', 'cancelled', 'interrupted') THEN 'todo' ELSE state END, not_before = 0, ended = 0
			WHERE run = ?1 AND stage >= 0 AND (?2 = '' OR name = ?2 OR state IN ('skipped', 'cancelled')) AND state IN ('failed', 'skipped', 'cancelled', 'interrupted')`,
			runName(run), stage)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, command.Usage(fmt.Sprintf("run %d has nothing to try again", run), "'imgpipe status' shows how its stages ended"))
		}
		var known int
		if err := tx.QueryRow(ctx, "SELECT COUNT(*) FROM task WHERE run = ?1 AND stage >= 0 AND (?2 = '' OR name = ?2)", runName(run), stage).Scan(&known); err != nil {
			return err
		}
		if known == 0 {
			return command.BadInput(fmt.Errorf("run %d has no stage %q", run, stage), "'imgpipe status' lists them")
		}
		tx.Wake()
		if err := tx.One(ctx, "UPDATE run SET state = ?, reason = '', cancel = '', newer = 0, ended = 0, begun = ?, host = ? WHERE id = ?", pipeline.Running, store.Millis(e.now()), host, run); err != nil {
			return err
		}
		return e.event(ctx, tx, run, "operator", actor, "retry %s", stage)
	})
	if err == nil {
		e.enqueue(ctx, time.Time{}, run)
	}
	return err
}

// Adopt gives a run to another worker: the one that had it alone is gone.
func (e *Engine) Adopt(ctx context.Context, run int64, actor, host string) error {
	err := e.db.Tx(ctx, func(tx *store.Tx) error {
		if err := e.mustBe(ctx, tx, run, false); err != nil {
			return err
		}
		var busy int
		err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM run JOIN worker ON worker.name = run.host WHERE run.id = ? AND worker.seen > ?`,
			run, store.Millis(e.now().Add(-AttemptLease))).Scan(&busy)
		if err != nil {
			return err
		}
		if busy > 0 {
			return command.Busy(fmt.Errorf("run %d: a process that is alive works on it", run), "wait half a minute if it was killed just now; 'imgpipe cancel' ends the run")
		}
		tx.Wake()
		if err := tx.One(ctx, "UPDATE run SET host = ? WHERE id = ?", host, run); err != nil {
			return err
		}
		return e.event(ctx, tx, run, "operator", actor, "goes on")
	})
	if err == nil {
		e.enqueue(ctx, time.Time{}, run)
	}
	return err
}

// ErrNoRun says that there is no run of that number.
var ErrNoRun = errors.New("there is no such run")

func (e *Engine) mustBe(ctx context.Context, tx *store.Tx, run int64, ended bool) error {
	var state pipeline.Status
	err := tx.QueryRow(ctx, "SELECT state FROM run WHERE id = ?", run).Scan(&state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return command.BadInput(fmt.Errorf("run %d: %w", run, ErrNoRun), "'imgpipe status' lists the runs")
	case err != nil:
		return err
	case ended && !state.Ended():
		return command.Busy(fmt.Errorf("run %d is still going on", run), "'imgpipe cancel' ends it")
	case !ended && state.Ended():
		return command.BadInput(fmt.Errorf("run %d has ended: %s", run, state), "")
	}
	return nil
}

// maxEvent bounds an event, in bytes.
const maxEvent = 2000

func (e *Engine) event(ctx context.Context, tx *store.Tx, run int64, kind, who, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if len(what) > maxEvent {
		what = what[:maxEvent] + "…"
	}
	tx.Did(fmt.Sprintf("run %d: %s", run, what))
	_, err := tx.Exec(ctx, "INSERT INTO event (at, kind, who, what, run) VALUES (?, ?, ?, ?, ?)", store.Millis(e.now()), kind, who, what, runName(run))
	return err
}

// runName is how tasks and events name a run.
func runName(run int64) string { return fmt.Sprint(run) }

var (
	encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest))
	decoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxContent))
)

// maxContent bounds one content, in bytes.
const maxContent = 64 << 20

// putContent keeps bytes under their digest, and returns that.
func putContent(ctx context.Context, tx *store.Tx, b []byte) (string, error) {
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	_, err := tx.Exec(ctx, "INSERT INTO content (sha256, bytes) VALUES (?, ?) ON CONFLICT (sha256) DO NOTHING", name, encoder.EncodeAll(b, nil))
	return name, err
}

// content returns what was kept under a digest, which is checked.
func content(ctx context.Context, tx *store.Tx, name string) ([]byte, error) {
	var packed []byte
	if err := tx.QueryRow(ctx, "SELECT bytes FROM content WHERE sha256 = ?", name).Scan(&packed); err != nil {
		return nil, fmt.Errorf("content %s: %w", name, err)
	}
	b, err := decoder.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("content %s is damaged: %w", name, err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != name {
		return nil, fmt.Errorf("content %s is damaged", name)
	}
	return b, nil
}

func ids(ctx context.Context, tx *store.Tx, query string, args ...any) (list []int64, err error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	return list, rows.Err()
}

// PolicyOf is what the planner needs of a pipeline.
func PolicyOf(p *pipeline.Pipeline) Policy {
	pol := Policy{Pipeline: p.Name, Timeout: p.Timeout}
	for _, s := range p.Stages {
		st := Stage{Name: s.Name, Uses: s.Uses, Needs: s.Needs, If: string(s.If), Skip: s.Skip, Retry: map[string]int{},
			RetryDelay: s.RetryDelay, Timeout: s.Timeout, Requires: s.Requires, Matrix: s.Matrix}
		if st.Timeout == 0 {
			st.Timeout = pipeline.DefaultTimeout
		}
		for class, n := range s.Retry {
			st.Retry[string(class)] = n
		}
		pol.Stages = append(pol.Stages, st)
	}
	return pol
}
