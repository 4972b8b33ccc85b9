package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/hook"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/sourcerepo"
	"goldsmith/internal/tree"
)

// newResumer prepares the state that steps work on.
func (b *build) newResumer() (*resumer, error) {
	b.state = &state{
		dir: filepath.Join(b.cache.dir, mountName), initial: filepath.Join(b.work.dir, "initial"),
		scratch: filepath.Join(b.work.dir, "steps"), locks: filepath.Join(b.cache.dir, workName), store: b.cache.layers,
	}
	if err := os.MkdirAll(b.state.initial, 0o755); err != nil {
		return nil, err
	}
	if err := b.prepare(b.state.initial); err != nil {
		return nil, err
	}
	if err := b.lateEnvironment(filepath.Join(b.state.initial, hooksName)); err != nil {
		return nil, err
	}
	keys, err := newKeyMaker(b)
	if err != nil {
		return nil, err
	}
	r := &resumer{b: b, st: b.state, keys: keys, last: b.lastRecord()}
	return r, r.begin()
}

// begin decides from which generation of the base tree the build goes on. Those
// who ask for a fresh one begin another; it counts for all builds of these
// root.d hooks once it is finished.
func (r *resumer) begin() error {
	dir, err := r.hooksDir()
	if err != nil {
		return err
	}
	if err := r.expect(dir); err != nil {
		return err
	}
	names, err := hook.List(filepath.Join(dir, rootPhase.name))
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	steps, err := r.steps(rootPhase, dir, names)
	if err != nil || len(steps) == 0 {
		return err
	}
	r.generation = filepath.Join(r.b.cache.dir, "generations", steps[len(steps)-1].Key)
	if r.b.opts.Refresh {
		r.st.key = fmt.Sprint("generation ", time.Now().UnixNano()) // seen in no output
		return nil
	}
	text, err := os.ReadFile(r.generation)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	r.st.key = string(text)
	return nil
}

// endBase notes the generation of a base tree that was asked for anew.
func (r *resumer) endBase(generation string) error {
	if !r.b.opts.Refresh || r.only || r.generation == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(r.generation), 0o755); err != nil {
		return err
	}
	return atomicfile.Write(r.generation, []byte(generation), 0o644)
}

// buildBySteps makes the image of the steps that were kept, and of those that
// have to run.
func (b *build) buildBySteps(ctx context.Context) (_ *Result, err error) {
	r, err := b.newResumer()
	if err != nil {
		return nil, err
	}
	defer func() {
		// Of a build that failed, the record helps whoever asks why steps run
		// again; what keeps it from being written has made the build fail.
		if noted := b.writeRecord(r.done); err == nil {
			err = noted
		}
	}()
	key, err := b.finishSteps(ctx, r)
	if err != nil {
		return nil, errors.Join(err, b.reportFailure(err))
	}
	if res := b.upToDate(key); res != nil {
		return res, nil
	}
	res, err := b.imageOf(ctx, r)
	if err != nil {
		return nil, errors.Join(err, b.reportFailure(err))
	}
	return res, b.noteOutputs(key, res)
}

// finishSteps goes through all steps, and returns what the outputs are known
// by.
func (b *build) finishSteps(ctx context.Context, r *resumer) (string, error) {
	if err := b.goThrough(ctx, r); err != nil {
		return "", err
	}
	r.say()
	return b.outputKey(r)
}

// imageOf writes the outputs of the finished steps.
func (b *build) imageOf(ctx context.Context, r *resumer) (*Result, error) {
	t, err := b.finishedTree(r)
	if err != nil {
		return nil, err
	}
	return b.writeOutputs(ctx, t)
}

// goThrough goes through all steps.
func (b *build) goThrough(ctx context.Context, r *resumer) error {
	if err := b.baseTree(ctx, r); err != nil {
		return err
	}
	for _, p := range treePhases {
		if err := r.phase(ctx, p); err != nil {
			return err
		}
	}
	if b.layout != nil {
		inputs, err := r.diskInputs()
		if err != nil {
			return err
		}
		if b.needsMachine() {
			return r.own(ctx, r.keys.own(r.st.key, "disk in a machine", true, inputs), func() error { return r.diskInMachine(ctx) })
		}
		s := r.keys.own(r.st.key, "size of the disk", false, inputs)
		if err := r.own(ctx, s, r.describeDisk); err != nil {
			return err
		}
		if err := r.readSize(); err != nil {
			return err
		}
	}
	for _, p := range diskPhases {
		if err := r.phase(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// baseTree goes through the steps that make the base tree.
func (b *build) baseTree(ctx context.Context, r *resumer) error {
	generation := r.st.key
	if err := r.phase(ctx, rootPhase); err != nil {
		return err
	}
	if err := r.own(ctx, r.keys.own(r.st.key, "base tree", false, nil), r.finishBase); err != nil {
		return err
	}
	return r.endBase(generation)
}

// diskInMachine is the build's, with the host's resolv.conf in the tree.
func (r *resumer) diskInMachine(ctx context.Context) (err error) {
	b := r.b
	if err := b.readEpoch(); err != nil {
		return err
	}
	if !r.lent {
		if r.lent, err = lendResolvConf(b.root(), hostResolvConf); err != nil {
			return err
		}
	}
	b.lent = r.lent
	return b.diskInMachine(ctx)
}

func (r *resumer) describeDisk() error {
	if err := r.b.describeDisk(); err != nil {
		return err
	}
	return r.st.note(sizeNote, r.b.layout.params.Size)
}

// readSize completes the plan of the disk from what was noted when its size
// was found.
func (r *resumer) readSize() error {
	if r.only || r.b.layout.sized {
		return nil
	}
	if err := r.st.open(); err != nil {
		return err
	}
	n, err := r.st.noted(sizeNote)
	if err != nil {
		return err
	}
	l := r.b.layout
	l.params.Size = n
	return r.b.fit(r.b.root())
}

// diskInputs are what a disk depends on beyond the elements' files.
func (r *resumer) diskInputs() (map[string]string, error) {
	in := map[string]string{
		"block device": sum([]byte(fmt.Sprintf("%s\x00%+v", r.b.layout.text, r.b.layout.params))),
		"outputs":      fmt.Sprint(r.b.wantsTree()),
	}
	dir, err := r.hooksDir()
	if err != nil {
		return nil, err
	}
	for _, p := range append([]phase{devicePhase}, diskPhases...) {
		names, err := hook.List(filepath.Join(dir, p.name))
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(filepath.Join(dir, p.name, name))
			if err != nil {
				return nil, err
			}
			in["hook "+p.name+"/"+name] = sum(text)
		}
	}
	return in, nil
}

// finishedTree is the tree of the image once all steps are done, without what
// belongs to this build.
func (b *build) finishedTree(r *resumer) (*tree.Tree, error) {
	if err := b.state.open(); err != nil {
		return nil, err
	}
	if err := b.readEpoch(); err != nil {
		return nil, err
	}
	if b.layout != nil && b.needsMachine() {
		return b.machineResult()
	}
	root := b.root()
	if err := rootfs.UnmountBelow(root); err != nil {
		return nil, err
	}
	if r.lent {
		if err := restoreResolvConf(root); err != nil {
			return nil, err
		}
	}
	t, err := tree.FromDir(root)
	if err != nil {
		return nil, err
	}
	return t, normalise(t, b.epoch)
}

// readEpoch reads the image's time, which the base tree decided.
func (b *build) readEpoch() error {
	n, err := b.state.noted(epochNote)
	b.epoch = time.Unix(n, 0).UTC()
	return err
}

// always says why a step runs in every build; empty when its result is kept.
func (b *build) always(hookFile string) string {
	if b.pins != nil {
		return ""
	}
	text, err := os.ReadFile(hookFile)
	if err != nil || !bytes.Contains(text, []byte("source-repositories")) {
		return ""
	}
	for _, e := range b.elements {
		if list, _ := filepath.Glob(filepath.Join(e.Dir, sourcerepo.FilePrefix+"*")); len(list) > 0 {
			return "sources are not pinned (imgbuild lock)"
		}
	}
	return ""
}
