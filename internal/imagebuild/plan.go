package imagebuild

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/atomicfile"
)

// PlannedStep is a step of a build as it is, or as it would go.
type PlannedStep struct {
	step
	Cached bool `json:"cached"`
	// Why says what makes the step run: a file or variable that changed, a
	// step before it, or that it never ran.
	Why  string        `json:"why,omitempty"`
	Took time.Duration `json:"took,omitempty"` // nanoseconds, where it ran
}

// Plan tells what a build would do: its steps, which of them need not run, and
// why the others would. Steps that a hook makes while the image is built are
// not in it before they ran once. It runs nothing, and needs the namespaces of
// a build.
func Plan(ctx context.Context, def *Definition, opts Options) (_ []PlannedStep, err error) {
	b, err := open(ctx, def, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	r, err := b.newResumer()
	if err != nil {
		return nil, err
	}
	r.only = true
	if err := b.goThrough(ctx, r); err != nil {
		return nil, err
	}
	return r.done, nil
}

// plan notes steps that would run, and goes on as if they had.
func (r *resumer) plan(steps []*step) {
	for _, s := range steps {
		r.done = append(r.done, PlannedStep{step: *s, Why: r.why(s)})
		r.st.key, r.st.dirty = s.Key, true
	}
}

// neverRan is why a step of a first build runs.
const neverRan = "never ran for this image"

// why says what makes a step run that was done before.
func (r *resumer) why(s *step) string {
	old, known := r.last[s.Name]
	switch {
	case s.Always != "":
		return s.Always
	case r.b.opts.Refresh:
		return "asked for by --refresh"
	case !known:
		return neverRan
	}
	if changed := changes(old.Inputs, s.Inputs); len(changed) > 0 {
		if len(changed) > 1 { // whichever pin changed, the lock file did
			changed = slices.DeleteFunc(changed, func(c string) bool { return c == lockInput+" changed" })
		}
		return some(changed, ", ")
	}
	for i := len(r.done) - 1; i >= 0; i-- {
		if !r.done[i].Cached {
			return "after " + r.done[i].Name
		}
	}
	if old.Key != s.Key {
		return "a step before it is gone, or new"
	}
	if r.st.damaged[s.Key] {
		return "its layer in the cache is damaged"
	}
	return "its layer is not in the cache"
}

// changes names the inputs that differ; both lists are sorted.
func changes(old, now []input) []string {
	var out []string
	for len(old) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(old) > 0 && old[0].Name < now[0].Name:
			out = append(out, old[0].Name+" is gone")
			old = old[1:]
		case len(old) == 0 || now[0].Name < old[0].Name:
			out = append(out, now[0].Name+" is new")
			now = now[1:]
		default:
			if old[0].Digest != now[0].Digest {
				out = append(out, now[0].Name+" changed")
			}
			old, now = old[1:], now[1:]
		}
	}
	return out
}

// recordFile is where the steps of the last build of this image are. It is
// the owner's alone: short secrets can be guessed by their digests.
func (b *build) recordFile() string {
	return filepath.Join(b.cache.dir, "plans", b.def.Name+"-"+b.def.Arch+".json")
}

// lastRecord returns the steps of the last build by name; none where there was
// no build, or its record cannot be read.
func (b *build) lastRecord() map[string]step {
	last := map[string]step{}
	text, err := os.ReadFile(b.recordFile())
	if err != nil {
		return last
	}
	var steps []step
	if json.Unmarshal(text, &steps) != nil {
		return last
	}
	for _, s := range steps {
		last[s.Name] = s
	}
	return last
}

// writeRecord notes the steps of this build.
func (b *build) writeRecord(done []PlannedStep) error {
	steps := make([]step, len(done))
	for i, d := range done {
		steps[i] = d.step
	}
	text, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.recordFile()), 0o700); err != nil {
		return err
	}
	return atomicfile.Write(b.recordFile(), text, 0o600)
}
