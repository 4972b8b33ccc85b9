package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// Plan is what a run would do.
type Plan struct {
	Image  Image          `json:"image"`
	Back   []Migration    `json:"back,omitempty"` // what would be put back first
	Stay   []Migration    `json:"stay,omitempty"` // what would be, if there were copies
	Phases []PlannedPhase `json:"phases"`
}

// PlannedPhase is a phase that this machine has.
type PlannedPhase struct {
	Name  string        `json:"name"`
	Hooks []PlannedHook `json:"hooks"`
	// Ignored are executable files whose names are no hooks' names.
	Ignored []string `json:"ignored,omitempty"`
}

// PlannedHook is a hook, what it waits for, and whether it would run.
type PlannedHook struct {
	Name   string   `json:"name"`
	After  []string `json:"after,omitempty"`  // hooks of its phase that it waits for directly
	Beside bool     `json:"beside,omitempty"` // others may run at the same time
	Run    bool     `json:"run"`
	Why    string   `json:"why"`
	Header Header   `json:"header,omitzero"`
}

// Plan says what a run would do now. Hooks change what later hooks look at: of
// those that wait for a change it says what is known before the run, with
// coming (paths that will be written) counted as changed.
func (c Config) Plan(ctx context.Context, coming []string) (Plan, error) {
	list, stay, err := state{or(c.State, DefaultState)}.returning(c.Image)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{Image: c.Image, Back: kept(list), Stay: stay, Phases: []PlannedPhase{}}
	for _, name := range Phases {
		ph, err := c.readPhase(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Plan{}, err
		}
		planned := PlannedPhase{Name: name, Hooks: []PlannedHook{}, Ignored: ph.ignored}
		after := needs(ph.nodes)
		for i, n := range ph.nodes {
			d, err := c.decide(ctx, name, n, coming)
			if err != nil {
				return Plan{}, fmt.Errorf("%s: %w", name, err)
			}
			planned.Hooks = append(planned.Hooks, PlannedHook{n.name, after[i], n.beside, d.run, d.why, n.head})
		}
		p.Phases = append(p.Phases, planned)
	}
	return p, nil
}

// Check reads the headers of all hooks: the error is that of the first that is
// wrong, or names hooks that wait for each other, migrations of one name, or a
// semaphore with two counts.
func (c Config) Check() error {
	for _, name := range Phases {
		if _, err := c.readPhase(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// twice refuses a migration that another phase has, too.
func (c Config) twice(phase, name string) error {
	for _, other := range Phases {
		dir := filepath.Join(or(c.Base, DefaultBase), other+".d")
		names, err := hook.List(dir)
		if other == phase || err != nil || !slices.Contains(names, name) {
			continue
		}
		// A header that is wrong is for its own phase to tell.
		if h, err := readHeader(filepath.Join(dir, name)); err == nil && h.Once == onceMachine {
			return command.BadInput(fmt.Errorf("%s.d/%s: %s.d has a migration of this name, too", phase, name, other), "a migration is remembered by its name: rename one")
		}
	}
	return nil
}

// phase is a directory of hooks as it is read before it runs.
type phase struct {
	name, dir string
	nodes     []node
	ignored   []string
}

// readPhase reads a phase; fs.ErrNotExist says that the machine has it not.
func (c Config) readPhase(name string) (phase, error) {
	p := phase{name: name, dir: filepath.Join(or(c.Base, DefaultBase), name+".d")}
	names, err := hook.List(p.dir)
	if err != nil {
		return p, err
	}
	heads := make([]Header, len(names))
	for i, n := range names {
		if heads[i], err = readHeader(filepath.Join(p.dir, n)); err != nil {
			return p, err
		}
		if heads[i].Once == onceMachine {
			if err := c.twice(name, n); err != nil {
				return p, err
			}
		}
	}
	if err := checkSemaphores(names, heads); err != nil {
		return p, fmt.Errorf("%s: %w", p.dir, err)
	}
	if p.ignored, err = ignoredIn(p.dir); err != nil {
		return p, err
	}
	// Migrations change data that others may look at.
	p.nodes, err = newGraph(p.dir, names, heads, name == "migration")
	return p, err
}

// ignoredIn lists the executable files of a directory that are no hooks for
// their names: somebody may believe that they run.
func ignoredIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if hook.Name.MatchString(e.Name()) {
			continue
		}
		if fi, err := os.Stat(filepath.Join(dir, e.Name())); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// decision says whether a hook runs now.
type decision struct {
	run bool
	why string
	saw map[string]string // of Header.Changed, for the record of success
}

func (c Config) decide(ctx context.Context, phase string, n node, coming []string) (decision, error) {
	s := state{or(c.State, DefaultState)}
	switch {
	case n.head.Once == onceMachine:
		return s.decideMigration(n.name, c.Image)
	case n.head.Once == onceImage:
		var last success
		there := s.last(phase, n.name, &last)
		switch {
		case there && last.Image.same(c.Image):
			return decision{false, "done once in this image", nil}, nil
		case there:
			return decision{true, "not yet in this image (last in " + last.Image.String() + ")", nil}, nil
		}
		return decision{true, "not yet in this image", nil}, nil
	case n.head.Changed != nil:
		return c.decideChanged(ctx, phase, n, coming)
	}
	return decision{true, "every run", nil}, nil
}

// decideMigration counts what a run will take back as taken back.
func (s state) decideMigration(name string, now Image) (decision, error) {
	m, there, err := s.migration(name)
	if err != nil {
		return decision{}, err
	}
	list, _, err := s.returning(now)
	if slices.ContainsFunc(list, func(b Migration) bool { return b.Name == name }) {
		m.State = MigrationReturned
	}
	switch {
	case err != nil:
		return decision{}, err
	case !there, m.State == MigrationStarted && !m.begun():
		return decision{true, "never done on this machine", nil}, nil
	case m.State == MigrationDone:
		return decision{false, "done for " + m.To.String(), nil}, nil
	case m.State == MigrationStarted:
		return decision{true, "was cut short", nil}, nil
	}
	return decision{true, "taken back when " + m.From.String() + " ran again", nil}, nil
}

func (c Config) decideChanged(ctx context.Context, phase string, n node, coming []string) (decision, error) {
	var doc *metadata.Object
	if slices.ContainsFunc(n.head.Changed, func(w string) bool { return !strings.HasPrefix(w, "/") }) && c.Metadata != nil {
		var err error
		if doc, err = c.Metadata(ctx); err != nil {
			return decision{}, err
		}
	}
	now, err := saw(n.head.Changed, doc)
	if err != nil {
		return decision{}, fmt.Errorf("%s: %w", n.name, err)
	}
	var last success
	there := (state{or(c.State, DefaultState)}).last(phase, n.name, &last)
	for _, p := range coming {
		for _, w := range n.head.Changed {
			if ok, _ := filepath.Match(w, p); ok || strings.HasPrefix(p, w+"/") {
				return decision{true, "will change: " + p, now}, nil
			}
		}
	}
	changed := differs(last.Saw, now)
	switch {
	case !there:
		return decision{true, "has not succeeded yet", now}, nil
	case len(changed) > 0:
		return decision{true, "changed: " + strings.Join(changed, ", "), now}, nil
	}
	return decision{false, "unchanged: " + strings.Join(n.head.Changed, ", "), now}, nil
}
