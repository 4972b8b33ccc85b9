package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/update/fetch"
)

// run is a task that is being done.
type run struct {
	*Agent
	task   *deploy.Task
	result *deploy.Result

	inventory *deploy.Inventory
	image     *fetch.Image
	seed      []byte
	disks     []deploy.Disk // that were chosen
	disk      string        // device file; empty until one was named
	target    *target
}

func (r *run) close() {
	if r.image != nil {
		_ = r.image.Close() // it was only read
	}
	if r.target != nil {
		_ = r.target.dev.Close() // what counts was flushed
	}
}

// step is one step of a task.
type step struct {
	name string // NN-name
	do   func(context.Context) error
}

// StepInput is what an executable reads.
type StepInput struct {
	Storage   deploy.Storage    `json:"storage"`
	Inventory *deploy.Inventory `json:"inventory"`
	Disks     []string          `json:"disks"` // device files that were chosen; empty before 15-disks
	Disk      string            `json:"disk"`  // that a step named; empty until one did
}

// StepOutput is what an executable may answer. No answer changes nothing.
type StepOutput struct {
	Disk string `json:"disk"` // device file to write the image to; empty leaves it open
}

var stepName = regexp.MustCompile(`^[0-9][0-9]-[A-Za-z0-9][A-Za-z0-9._-]{0,60}$`)

// steps are those of the task, in order.
func (r *run) steps() ([]step, error) {
	inventory := step{"05-inventory", r.takeInventory}
	switch r.task.Kind {
	case deploy.Inspect:
		return []step{inventory}, nil
	case deploy.Clean:
		return []step{inventory, {"50-clean", r.clean}}, nil
	}
	list := []step{inventory, {"10-image", r.openImage}, {"15-disks", r.chooseDisks}, {"30-disk", r.takeDisk},
		{"50-write", r.write}, {"60-verify", r.verify}, {"70-seed", r.fit}, {"80-boot", r.commit},
		{"90-finish", r.prepareFinish}}
	entries, err := os.ReadDir(r.Steps)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !stepName.MatchString(e.Name()) {
			return nil, fmt.Errorf("%s: no step: want NN-name", filepath.Join(r.Steps, e.Name()))
		}
		list = append(list, step{e.Name(), func(ctx context.Context) error { return r.execute(ctx, e.Name()) }})
	}
	slices.SortStableFunc(list, func(a, b step) int { return cmp.Compare(a.name, b.name) })
	return list, nil
}

// stepTime bounds one executable, maxAnswer what it prints.
const (
	stepTime  = 30 * time.Minute
	maxAnswer = 64 << 10 // bytes
)

// execute runs an executable.
func (r *run) execute(ctx context.Context, name string) error {
	ctx, stop := context.WithTimeoutCause(ctx, stepTime, fmt.Errorf("it did not end within %s", stepTime))
	defer stop()
	in := StepInput{Storage: r.task.Storage, Inventory: r.inventory, Disk: r.disk, Disks: []string{}}
	for _, d := range r.disks {
		in.Disks = append(in.Disks, d.Path)
	}
	b, err := json.Marshal(in)
	if err != nil {
		return err
	}
	out := &bounded{limit: maxAnswer}
	err = command.Exec{
		Args: []string{filepath.Join(r.Steps, name)}, Stdin: bytes.NewReader(b), Stdout: out,
		Log: &sayer{say: r.Say, prefix: name + ": "}, Dir: "/",
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
			"GOLDSMITH_LEVEL=" + cmp.Or(r.task.Storage.Level, deploy.LevelSingle),
			"GOLDSMITH_DISKS=" + strings.Join(in.Disks, " "), "GOLDSMITH_DISK=" + r.disk},
	}.Run(ctx)
	if err != nil || len(bytes.TrimSpace(out.b)) == 0 {
		return err
	}
	var answer StepOutput
	if err := json.Unmarshal(out.b, &answer); err != nil {
		return fmt.Errorf("its answer: %w", err)
	}
	if answer.Disk == "" {
		return nil
	}
	if filepath.Clean(answer.Disk) != answer.Disk || !strings.HasPrefix(answer.Disk, r.Dev+"/") {
		return fmt.Errorf("its answer: disk %q: want a path below %s", answer.Disk, r.Dev)
	}
	r.disk = answer.Disk
	return nil
}

// bounded keeps what is written, up to a limit.
type bounded struct {
	b     []byte
	limit int
}

func (w *bounded) Write(p []byte) (int, error) {
	if len(w.b)+len(p) > w.limit {
		return 0, fmt.Errorf("more than %d bytes", w.limit)
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

// sayer says what is written, line by line; what has no end of line is said
// with the next one.
type sayer struct {
	say    func(string, ...any)
	prefix string
	part   []byte
}

func (w *sayer) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for {
		i := bytes.IndexByte(w.part, '\n')
		if i < 0 && len(w.part) < deploy.MaxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(w.part) - 1
		}
		w.say("%s%s", w.prefix, bytes.TrimRight(w.part[:i+1], "\r\n"))
		w.part = w.part[i+1:]
	}
}

func (r *run) takeInventory(ctx context.Context) (err error) {
	r.inventory, err = r.Inventory()
	if err != nil {
		return err
	}
	for _, d := range r.inventory.Disks {
		r.Say("disk %s: %d MiB, model %q, serial number %q", d.Path, d.Size>>20, d.Model, d.Serial)
	}
	return r.Client.Inventory(ctx, r.inventory)
}

func (r *run) openImage(ctx context.Context) (err error) {
	if r.image, err = openImage(ctx, r.task.Image, r.Say); err != nil {
		return &imageError{err}
	}
	r.seed, err = makeSeed(r.Scratch, r.task.Seed)
	return err
}

// chooseDisks first lets go of arrays, which steps of an earlier task made: their
// disks may be chosen again.
func (r *run) chooseDisks(context.Context) (err error) {
	r.stopArrays()
	r.disks, err = r.task.Storage.Choose(r.inventory.Disks)
	return err
}

func (r *run) takeDisk(context.Context) (err error) {
	if r.disk == "" {
		if l := r.task.Storage.Level; l != "" && l != deploy.LevelSingle {
			return command.BadInput(fmt.Errorf("no deploy step made storage of level %s", l),
				"add an element with such a step to the ramdisk, such as deploy-mdadm")
		}
		r.disk = r.disks[0].Path
	}
	r.target, err = openTarget(r.disk, r.image, int64(len(r.seed)), r.Say)
	if err == nil {
		r.Say("the image goes to %s", r.disk)
		r.result.Disk = r.disk
	}
	return err
}

func (r *run) write(ctx context.Context) error  { return r.target.write(ctx, r.tell("50-write")) }
func (r *run) verify(ctx context.Context) error { return r.target.verify(ctx, r.tell("60-verify")) }
func (r *run) fit(context.Context) error        { return r.target.fit(r.seed) }
func (r *run) commit(context.Context) error     { return r.target.disk.commit() }

func (r *run) prepareFinish(context.Context) error {
	if r.task.Finish != deploy.Kexec {
		return nil
	}
	m, err := r.target.kernel()
	if err != nil {
		return err
	}
	return r.LoadKexec(m)
}
