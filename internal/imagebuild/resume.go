package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/rootfs"
)

// resumer goes through the steps of a build: it takes what an earlier build
// kept and runs the rest.
type resumer struct {
	b    *build
	st   *state
	keys *keyMaker
	// done are the steps so far, with whether each was taken.
	done []PlannedStep
	// only makes it look at what there is and run nothing.
	only  bool
	lent  bool            // the tree has the host's resolv.conf until the end
	taken int             // steps taken since the last line about them
	last  map[string]step // of the last build, by name
	total int             // steps that there are when the build begins
	// generation is the file that names the generation of the base tree.
	generation string
}

// phase goes through the hooks of a phase.
func (r *resumer) phase(ctx context.Context, p phase) error {
	b, st := r.b, r.st
	stage := b.stageFor(p, b.root())
	stops := stage.Break.has(strings.TrimSuffix(p.name, ".d"))
	if stops {
		st.frozen = true // whoever is at the break point may change what comes after it
	}
	dir, err := r.hooksDir()
	if err != nil {
		return err
	}
	names, err := hook.List(filepath.Join(dir, p.name))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	steps, err := r.steps(p, dir, names)
	if err != nil {
		return err
	}
	from, err := r.resume(ctx, steps)
	if err != nil {
		return err
	}
	if r.only {
		r.plan(steps[from:])
		return nil
	}
	if from == len(steps) && !stops {
		return nil
	}
	r.say()
	if err := st.open(); err != nil {
		return err
	}
	if err := r.lend(p); err != nil {
		return err
	}
	run := &phaseRun{resumer: r, ctx: ctx, phase: p, steps: steps, from: from}
	stage.each = run
	return errors.Join(stage.run(ctx, p, nil), run.close())
}

// steps makes the steps of a phase.
func (r *resumer) steps(p phase, hooks string, names []string) ([]*step, error) {
	var steps []*step
	parent := r.st.key
	for _, name := range names {
		s, err := r.keys.hook(parent, p, hooks, name)
		if err != nil {
			return nil, err
		}
		s.Always = r.b.always(filepath.Join(hooks, p.name, name))
		steps = append(steps, s)
		parent = s.Key
	}
	return steps, nil
}

// resume takes the last of the steps that was kept, and returns how many are
// done with it.
func (r *resumer) resume(ctx context.Context, steps []*step) (int, error) {
	last := len(steps)
	if i := slices.IndexFunc(steps, func(s *step) bool { return s.Always != "" }); i >= 0 {
		last = i
	}
	for i := last - 1; i >= 0; i-- {
		ok, err := r.st.take(ctx, steps[i].Key)
		if err != nil {
			return 0, err
		}
		if ok {
			for _, s := range steps[:i+1] {
				r.took(s)
			}
			return i + 1, nil
		}
	}
	return 0, nil
}

// took notes a step that was taken.
func (r *resumer) took(s *step) {
	r.done = append(r.done, PlannedStep{step: *s, Cached: true})
	r.b.timeline.took(s)
	r.taken++
}

// expect counts the steps that there are; a hook may yet add others.
func (r *resumer) expect(hooks string) error {
	r.total = 1 // the base tree
	for _, p := range slices.Concat([]phase{rootPhase}, treePhases, diskPhases) {
		names, err := hook.List(filepath.Join(hooks, p.name))
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		r.total += len(names)
	}
	return nil
}

// count tells how far the build is.
func (r *resumer) count() {
	c := command.Count{Total: r.total + len(r.b.outputs), Done: len(r.done)}
	for _, s := range r.done {
		if s.Cached {
			c.Cached++
		}
	}
	r.b.count = c
	r.b.progress.Count(c)
}

// say prints a line about the steps that were taken.
func (r *resumer) say() {
	r.count()
	if r.taken == 0 {
		return
	}
	last := r.done[len(r.done)-1]
	r.b.progress.Start(fmt.Sprintf("%d steps", r.taken)).Cached("to " + last.Name)
	r.taken = 0
}

// hooksDir is where the hooks tree can be read now: what this build prepared,
// unless a step changed it.
func (r *resumer) hooksDir() (string, error) {
	st := r.st
	changed := st.mounted != ""
	for _, l := range st.layers {
		if _, err := os.Lstat(filepath.Join(l.Diff(), hooksName)); err == nil {
			changed = true
		}
	}
	if !changed {
		return filepath.Join(st.initial, hooksName), nil
	}
	return filepath.Join(st.dir, hooksName), st.open()
}

// own does a step of the builder's itself.
func (r *resumer) own(ctx context.Context, s *step, do func() error) error {
	if _, err := r.resume(ctx, []*step{s}); err != nil || r.st.key == s.Key {
		return err
	}
	if r.only {
		r.plan([]*step{s})
		return nil
	}
	r.say()
	if err := r.st.open(); err != nil {
		return err
	}
	why := r.why(s)
	started := time.Now()
	if err := do(); err != nil {
		return err
	}
	return r.keep(ctx, s, time.Since(started), why)
}

// keep makes a layer of a step that ran.
func (r *resumer) keep(ctx context.Context, s *step, took time.Duration, why string) error {
	if s.Always != "" {
		r.st.frozen = true
	}
	r.done = append(r.done, PlannedStep{step: *s, Took: took, Why: why})
	r.b.timeline.ran(s, took, why, false)
	return r.st.keep(ctx, s, took)
}

// lend gives the tree the host's resolv.conf for good where no step is kept
// any more: a shell at a break point needs it, too.
func (r *resumer) lend(p phase) error {
	if !r.st.frozen || r.lent || p == rootPhase {
		return nil
	}
	var err error
	r.lent, err = lendResolvConf(r.b.root(), hostResolvConf)
	return err
}

// phaseRun are the hooks of one phase as they run.
type phaseRun struct {
	*resumer
	ctx      context.Context
	phase    phase
	steps    []*step
	from     int // steps that are done
	running  *os.File
	lentHere bool
	why      string // the running hook runs
	progress interface{ Done(error, string) }
	err      error
}

// index is which of the steps a hook is.
func (r *phaseRun) index(name string) int {
	return slices.IndexFunc(r.steps, func(s *step) bool { return s.Name == r.phase.name+"/"+name })
}

// skip tells whether a hook need not run: it was done, or another build does
// it at the same time and is waited for.
func (r *phaseRun) skip(name string) bool {
	i := r.index(name)
	if r.err != nil || i < r.from {
		return r.err == nil
	}
	s := r.steps[i]
	r.running, r.err = r.st.lock(r.ctx, s.Key, func() { r.b.progress.Info("waiting for another build that runs %s", s.Name) })
	if r.err != nil || s.Always != "" {
		return false
	}
	ok, err := r.st.take(r.ctx, s.Key)
	if r.err = err; !ok || err != nil {
		return false
	}
	r.took(s)
	r.from = i + 1
	r.err = r.close()
	return r.err == nil
}

// before prepares the state for a hook.
func (r *phaseRun) before(name string) error {
	if r.err != nil {
		return r.err
	}
	r.say()
	if err := r.st.open(); err != nil {
		return err
	}
	if err := r.lendOrNote(); err != nil {
		return err
	}
	r.why = r.resumer.why(r.steps[r.index(name)])
	r.progress = r.b.progress.Start(r.phase.name + "/" + name)
	return nil
}

// lendOrNote gives the tree the host's resolv.conf while a hook runs, and no
// longer: it must not be in a layer. In root.d, where there is no tree yet, it
// notes when the first hook began.
func (r *phaseRun) lendOrNote() (err error) {
	if r.phase != rootPhase {
		if !r.lent {
			r.lentHere, err = lendResolvConf(r.b.root(), hostResolvConf)
		}
		return err
	}
	if n, err := r.st.noted(startedNote); n != 0 || err != nil {
		return err
	}
	return r.st.note(startedNote, time.Now().Unix())
}

// after keeps what a hook did.
func (r *phaseRun) after(name string, took time.Duration, failed error) error {
	s, detail := r.steps[r.index(name)], r.why
	if detail == neverRan {
		detail = "" // of a first build, every line would say it
	}
	r.progress.Done(failed, detail)
	if failed != nil {
		r.b.timeline.ran(s, took, r.why, true)
		return failed
	}
	if r.lentHere {
		if err := restoreResolvConf(r.b.root()); err != nil {
			return err
		}
	}
	if err := r.keep(r.ctx, s, took, r.why); err != nil {
		return err
	}
	return r.close()
}

// close lets other builds run the step.
func (r *phaseRun) close() error {
	f := r.running
	if f == nil {
		return nil
	}
	r.running = nil
	return errors.Join(os.Remove(f.Name()), f.Close())
}

// finishBase ends the base tree: what a hook lent it goes, and the time is
// noted that no file of the image may exceed.
func (r *resumer) finishBase() error {
	root := r.b.root()
	if err := rootfs.UnmountBelow(root); err != nil {
		return fmt.Errorf("phase root.d: %w", err)
	}
	if err := checkBase(root); err != nil {
		return err
	}
	started, err := r.st.noted(startedNote)
	if err != nil {
		return err
	}
	epoch, newest, err := newestBefore(root, time.Unix(started, 0))
	if err != nil {
		return err
	}
	if err := checkClock(newest, r.b.now()); err != nil {
		return err
	}
	return r.st.note(epochNote, epoch.Unix())
}

// Names of what a state has noted.
const (
	startedNote = "started" // when root.d began, seconds since 1970
	epochNote   = "epoch"   // the image's time, seconds since 1970
	sizeNote    = "size"    // of the disk, bytes
)
