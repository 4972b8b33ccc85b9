package engine

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
)

// Transition is a decision that was made: when, for what, and of what.
type Transition struct {
	ID       int64     `json:"id"`
	Run      int64     `json:"run"`
	Pipeline string    `json:"pipeline"`
	Time     time.Time `json:"time"`
	Cause    string    `json:"cause"`
	Actor    string    `json:"actor,omitempty"`
	Planner  int       `json:"planner"`  // its version
	Policy   string    `json:"policy"`   // SHA-256 of the policy as it was kept
	Snapshot string    `json:"snapshot"` // of the snapshot
	Decided  string    `json:"decided"`  // of the decision
}

// Event is something that happened in a run or on a node.
type Event struct {
	ID   int64     `json:"id"`
	Time time.Time `json:"time"`
	Run  string    `json:"run,omitempty"`
	Node string    `json:"node,omitempty"`
	Kind string    `json:"kind"`
	Who  string    `json:"who,omitempty"`
	What string    `json:"what"`
}

// Shown is a transition with everything that belongs to it.
type Shown struct {
	Transition
	Input  Snapshot `json:"input"`
	Rules  Policy   `json:"rules"`
	Output Decision `json:"output"`
	// Events are those of the run, and of the nodes it had, half a minute before and
	// after.
	Events []Event `json:"events"`
	// Attempts of the run are those that were worked on then, or ended then.
	Attempts []Worked `json:"attempts"`
}

// Worked is an attempt at a stage, whose log is kept with the run's files.
type Worked struct {
	Stage   string    `json:"stage"`
	Number  int       `json:"number"`
	State   string    `json:"state"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
}

// around is how far from a transition events are shown with it.
const around = 30 * time.Second

// Filter chooses transitions. Its zero value chooses the newest 50 of all.
type Filter struct {
	Run    int64
	Image  string // digest: of runs that work on it
	Actor  string
	Before int64 // older than this one
	Limit  int   // 0: 50
}

// History returns transitions, oldest first: the newest that the filter chooses.
func (e *Engine) History(ctx context.Context, f Filter) (list []Transition, err error) {
	if f.Limit <= 0 {
		f.Limit = 50
	}
	query, args := "WHERE (?1 = 0 OR transition.id < ?1)", []any{f.Before}
	if f.Run != 0 {
		query, args = query+fmt.Sprintf(" AND run = ?%d", len(args)+1), append(args, f.Run)
	}
	if f.Actor != "" {
		query, args = query+fmt.Sprintf(" AND actor = ?%d", len(args)+1), append(args, f.Actor)
	}
	if f.Image != "" {
		query = query + fmt.Sprintf(" AND run IN (SELECT CAST(run AS INTEGER) FROM task WHERE image = ?%d AND stage >= 0)", len(args)+1)
		args = append(args, f.Image)
	}
	err = e.db.View(ctx, func(tx *store.Tx) error {
		list, err = transitions(ctx, tx, fmt.Sprintf("%s ORDER BY transition.id DESC LIMIT %d", query, f.Limit), args...)
		return err
	})
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, err
}

func transitions(ctx context.Context, tx *store.Tx, where string, args ...any) (list []Transition, err error) {
	rows, err := tx.Query(ctx, `SELECT transition.id, run, run.pipeline, at, cause, actor, planner, transition.policy, snapshot, decision
		FROM transition JOIN run ON run.id = transition.run `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var t Transition
		var at int64
		if err := rows.Scan(&t.ID, &t.Run, &t.Pipeline, &at, &t.Cause, &t.Actor, &t.Planner, &t.Policy, &t.Snapshot, &t.Decided); err != nil {
			return nil, err
		}
		t.Time = store.Time(at)
		list = append(list, t)
	}
	return list, rows.Err()
}

// ErrNoTransition says that there is no transition of that number.
var ErrNoTransition = errors.New("there is no such transition")

// Show returns one transition.
func (e *Engine) Show(ctx context.Context, id int64) (s *Shown, err error) {
	err = e.db.View(ctx, func(tx *store.Tx) error {
		list, err := transitions(ctx, tx, "WHERE transition.id = ?", id)
		if err != nil {
			return err
		}
		if len(list) == 0 {
			return command.BadInput(fmt.Errorf("transition %d: %w", id, ErrNoTransition), "'imgpipe history ls' lists them")
		}
		s = &Shown{Transition: list[0]}
		for name, v := range map[string]any{s.Snapshot: &s.Input, s.Policy: &s.Rules, s.Decided: &s.Output} {
			b, err := content(ctx, tx, name)
			if err != nil {
				return err
			}
			if err := json.Unmarshal(b, v); err != nil {
				return fmt.Errorf("transition %d: %w", id, err)
			}
		}
		s.Events, err = events(ctx, tx, `at BETWEEN ?1 AND ?2 AND (run = ?3 OR node IN (SELECT node FROM task WHERE run = ?3 AND node <> ''))`,
			store.Millis(s.Time.Add(-around)), store.Millis(s.Time.Add(around)), runName(s.Run))
		if err != nil {
			return err
		}
		s.Attempts, err = worked(ctx, tx, s.Run, s.Time.Add(-around), s.Time.Add(around))
		return err
	})
	return s, err
}

// worked finds the attempts of a run between two moments.
func worked(ctx context.Context, tx *store.Tx, run int64, from, to time.Time) (list []Worked, err error) {
	rows, err := tx.Query(ctx, `SELECT task.name, attempt.number, attempt.state, attempt.started, attempt.ended FROM attempt JOIN task ON task.id = attempt.task
		WHERE task.run = ? AND attempt.started <= ? AND (attempt.ended = 0 OR attempt.ended >= ?) ORDER BY attempt.id`,
		runName(run), store.Millis(to), store.Millis(from))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v Worked
		var started, ended int64
		if err := rows.Scan(&v.Stage, &v.Number, &v.State, &started, &ended); err != nil {
			return nil, err
		}
		v.Started = store.Time(started)
		if ended != 0 {
			v.Ended = store.Time(ended)
		}
		list = append(list, v)
	}
	return list, rows.Err()
}

func events(ctx context.Context, tx *store.Tx, where string, args ...any) (list []Event, err error) {
	rows, err := tx.Query(ctx, "SELECT id, at, run, node, kind, who, what FROM event WHERE "+where+" ORDER BY id", args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var v Event
		var at int64
		if err := rows.Scan(&v.ID, &at, &v.Run, &v.Node, &v.Kind, &v.Who, &v.What); err != nil {
			return nil, err
		}
		v.Time = store.Time(at)
		list = append(list, v)
	}
	return list, rows.Err()
}

// Snapshot returns how a run stands now, and its policy. Nothing is changed.
func (e *Engine) Snapshot(ctx context.Context, run int64) (s Snapshot, p Policy, err error) {
	undo := errors.New("only looked")
	err = e.db.Tx(ctx, func(tx *store.Tx) error {
		pol, r, err := e.load(ctx, tx, run)
		if err != nil {
			return err
		}
		now, err := e.snapshot(ctx, tx, r, pol)
		if err != nil {
			return err
		}
		s, p = *now, *pol
		return undo
	})
	if errors.Is(err, undo) {
		err = nil
	}
	return s, p, err
}

// Difference is something that two decisions, or what they were made of, do not
// have in common.
type Difference struct {
	What string `json:"what"` // "policy: smoke: timeout", "state: smoke", "action: start smoke"
	A    string `json:"a"`    // empty: it is not there
	B    string `json:"b"`
}

// Compare says how two transitions differ: in their policies, in what was known,
// and in what was decided.
func Compare(a, b *Shown) []Difference {
	var list []Difference
	add := func(what, x, y string) {
		if x != y {
			list = append(list, Difference{what, x, y})
		}
	}
	add("pipeline", a.Pipeline, b.Pipeline)
	add("planner", fmt.Sprint(a.Planner), fmt.Sprint(b.Planner))
	for _, name := range both(a.Rules, b.Rules) {
		x, y := facets(a, name), facets(b, name)
		for _, key := range sorted(x, y) {
			add(key[:len(key)-len(name)-2]+": "+name, x[key], y[key])
		}
	}
	add("state: run", string(a.Input.Run.State)+" "+a.Input.Run.Cancel, string(b.Input.Run.State)+" "+b.Input.Run.Cancel)
	add("state: tasks of all runs", fmt.Sprintf("%d of %d", a.Input.Busy, a.Input.Cap), fmt.Sprintf("%d of %d", b.Input.Busy, b.Input.Cap))
	add("state: workers", names(a.Input.Workers), names(b.Input.Workers))
	return append(list, decided(a.Output, b.Output)...)
}

// Replay decides anew what was decided, with the planner of today, and says what
// differs: nothing, unless the planner has changed.
func Replay(s *Shown) []Difference { return decided(s.Output, Plan(s.Input, s.Rules)) }

// Replayed is what came of deciding a run's transitions anew.
type Replayed struct {
	Transition  int64        `json:"transition"`
	Planner     int          `json:"planner"` // its version then
	Differences []Difference `json:"differences"`
}

// ReplayAll decides anew every transition that the filter chooses and returns
// those that differ, and how many there were.
func (e *Engine) ReplayAll(ctx context.Context, f Filter) (differ []Replayed, n int, err error) {
	list, err := e.History(ctx, f)
	for _, t := range list {
		s, err := e.Show(ctx, t.ID)
		if err != nil {
			return nil, 0, err
		}
		if d := Replay(s); len(d) > 0 {
			differ = append(differ, Replayed{t.ID, t.Planner, d})
		}
	}
	return differ, len(list), err
}

// Past are how long stages of a pipeline took, of those that passed.
type Past map[string]Duration

// Duration is how long something commonly takes.
type Duration struct {
	P50 time.Duration `json:"p50"`
	P90 time.Duration `json:"p90"`
	N   int           `json:"n"` // how often it was seen
}

// pastAttempts is how many of a stage's newest attempts count.
const pastAttempts = 50

// Past returns how long a pipeline's stages took lately.
func (e *Engine) Past(ctx context.Context, name string) (Past, error) {
	took := map[string][]time.Duration{}
	err := e.db.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(ctx, `SELECT task.name, attempt.ended - attempt.started FROM attempt JOIN task ON task.id = attempt.task
			JOIN run ON task.run = CAST(run.id AS TEXT) WHERE run.pipeline = ? AND attempt.state = 'passed' ORDER BY attempt.id DESC LIMIT 5000`, name)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var stage string
			var ms sql.NullInt64
			if err := rows.Scan(&stage, &ms); err != nil {
				return err
			}
			if len(took[stage]) < pastAttempts {
				took[stage] = append(took[stage], time.Duration(ms.Int64)*time.Millisecond)
			}
		}
		return rows.Err()
	})
	past := Past{}
	for stage, all := range took {
		past[stage] = percentiles(all)
	}
	return past, err
}
