package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite" // the driver

	"goldsmith/internal/store"
)

// Dispatcher is a durable queue of runs to be advanced. It may deliver a run
// more than once.
type Dispatcher interface {
	// Enqueue has a run advanced, not before at; the zero time means now.
	Enqueue(ctx context.Context, run int64, at time.Time) error
	// Close ends the delivery, after what is being done. What is left is
	// delivered by the next dispatcher.
	Close() error
}

// SweepEvery is how often one of all processes looks for what nobody told of.
const SweepEvery = 5 * time.Second

// River's own settings. Its jobs are short: they plan, and no more.
const (
	advanceLimit = 30 * time.Second // for one job
	rescueAfter  = 60 * time.Second // a job whose process died is done again
	fetchEvery   = time.Second      // what other processes asked for
	fetchPause   = 5 * time.Millisecond
	advancers    = 4
)

// advanceArgs is a job: a run to be advanced.
type advanceArgs struct {
	Run int64 `json:"run"`
}

// Kind implements river.JobArgs.
func (advanceArgs) Kind() string { return "advance" }

// sweepArgs is a job: a sweep.
type sweepArgs struct{}

// Kind implements river.JobArgs.
func (sweepArgs) Kind() string { return "sweep" }

// StartDispatcher begins to advance runs of e's database through River
// (https://riverqueue.com), whose tables are in the same database, and sweeps.
// The caller closes it.
func StartDispatcher(ctx context.Context, e *Engine) (Dispatcher, error) {
	if e.db.Postgres() {
		pool, err := pgxpool.New(ctx, store.Bounded(e.db.Where()))
		if err != nil {
			return nil, err
		}
		return startRiver(ctx, e, riverpgxv5.New(pool), func() error { pool.Close(); return nil })
	}
	q := url.Values{"_txlock": {"immediate"}, "_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "foreign_keys(1)"}}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: e.db.Where(), RawQuery: q.Encode()}).String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return startRiver(ctx, e, riversqlite.New(db), db.Close)
}

// dispatcher is River's client.
type dispatcher[Tx any] struct {
	client *river.Client[Tx]
	close  func() error
	cancel context.CancelFunc
	ending *atomic.Bool
}

func startRiver[Tx any](ctx context.Context, e *Engine, driver riverdriver.Driver[Tx], closeDB func() error) (Dispatcher, error) {
	ending := new(atomic.Bool)
	log := slog.New(quiet{e.log().Handler(), ending})
	m, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: log})
	if err == nil {
		_, err = m.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: the queue's tables: %w", store.Redacted(e.db.Where()), err), closeDB())
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(func(ctx context.Context, j *river.Job[advanceArgs]) error {
		_, err := e.Advance(ctx, j.Args.Run, "something happened", "")
		if errors.Is(err, ErrNoRun) {
			return river.JobCancel(err)
		}
		return err
	}))
	river.AddWorker(workers, river.WorkFunc(func(ctx context.Context, _ *river.Job[sweepArgs]) error {
		_, err := e.Sweep(ctx)
		return err
	}))
	c, err := river.NewClient(driver, &river.Config{
		Queues:            map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: advancers}},
		Workers:           workers,
		Logger:            log,
		FetchCooldown:     fetchPause,
		FetchPollInterval: fetchEvery,
		JobTimeout:        advanceLimit, RescueStuckJobsAfter: rescueAfter,
		CompletedJobRetentionPeriod: time.Minute, CancelledJobRetentionPeriod: time.Minute, DiscardedJobRetentionPeriod: time.Hour,
		PeriodicJobs: []*river.PeriodicJob{river.NewPeriodicJob(river.PeriodicInterval(SweepEvery),
			func() (river.JobArgs, *river.InsertOpts) { return sweepArgs{}, &river.InsertOpts{MaxAttempts: 1} },
			&river.PeriodicJobOpts{RunOnStart: true})},
	})
	if err != nil {
		return nil, errors.Join(err, closeDB())
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &dispatcher[Tx]{client: c, close: closeDB, cancel: cancel, ending: ending}
	e.Use(d) // before anything is delivered
	if err := c.Start(run); err != nil {
		cancel()
		return nil, errors.Join(err, closeDB())
	}
	return d, nil
}

// quiet lets only what matters through: River warns of what it mends itself, and
// calls it an error that something it began is broken off when it ends.
type quiet struct {
	slog.Handler
	ending *atomic.Bool
}

// Enabled implements slog.Handler.
func (q quiet) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelError && !q.ending.Load()
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(a []slog.Attr) slog.Handler {
	return quiet{q.Handler.WithAttrs(a), q.ending}
}

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name), q.ending} }

// Enqueue implements Dispatcher.
func (d *dispatcher[Tx]) Enqueue(ctx context.Context, run int64, at time.Time) error {
	_, err := d.client.Insert(ctx, advanceArgs{run}, &river.InsertOpts{ScheduledAt: at})
	return err
}

// Close implements Dispatcher.
func (d *dispatcher[Tx]) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), advanceLimit)
	defer cancel()
	d.ending.Store(true)
	err := d.client.Stop(ctx)
	d.cancel()
	return errors.Join(err, d.close())
}

var (
	_ Dispatcher = (*dispatcher[*sql.Tx])(nil)
	_ Dispatcher = (*dispatcher[pgx.Tx])(nil)
)
