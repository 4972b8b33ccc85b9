package step

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

// build makes an image and puts it into the layout.
type build struct {
	env        Env
	definition string
	refresh    bool
	key        string   // file; empty: the image is not signed
	channels   []string // that the image may replace something in
}

type buildWith struct {
	Definition string // path of the image definition, relative to the pipeline file
	Refresh    bool   // make the base tree anew, with the packages that the mirror has now
	Sign       string // path of a private key, relative to the pipeline file; empty means not at all
}

func newBuild(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w buildWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	if w.Definition == "" {
		return nil, p.Errorf(stage, "definition", "with.definition is missing: name the image definition to build")
	}
	b := &build{env, env.path(w.Definition), w.Refresh, env.path(w.Sign), nil}
	for _, c := range p.Channels {
		b.channels = append(b.channels, c.Name)
	}
	if _, err := os.Stat(b.definition); err != nil {
		return nil, p.Errorf(stage, "definition", "image definition %s is not there", b.definition)
	}
	if b.key != "" {
		if _, err := trust.ReadPrivate(b.key); err != nil {
			return nil, p.Errorf(stage, "sign", "with.sign: %v", err)
		}
	}
	return b, nil
}

// Check implements pipeline.Checker.
func (b *build) Check(context.Context) error {
	for _, p := range []string{"imgbuild", "imginit"} {
		if _, err := os.Stat(filepath.Join(b.env.Bin, p)); err != nil {
			return command.Missing(fmt.Errorf("%s: %s is not there", b.env.Bin, p), "'make build' puts all programs into one directory")
		}
	}
	return nil
}

// Run implements pipeline.Step.
func (b *build) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	// Disks are large: they wait beside where they will stay, not in the
	// attempt's directory.
	out, err := b.env.Store.scratch("build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(out)
	runErr := b.imgbuild(ctx, out, j)
	if err := keepLogs(out, j.Dir); err != nil || runErr != nil {
		return nil, errors.Join(runErr, err)
	}
	return b.store(ctx, out, j)
}

// keepLogs moves the build's log to where the attempt keeps its files.
func keepLogs(out, dir string) error {
	logs, err := filesIn(out, ".build.log")
	for _, l := range logs {
		err = errors.Join(err, os.Rename(filepath.Join(out, l), filepath.Join(dir, l)))
	}
	return err
}

// filesIn returns the names in dir that end with suffix.
func filesIn(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// imgbuildGrace is how long imgbuild may take to remove a half-made tree.
const imgbuildGrace = 30 * time.Second

// imgbuild runs the program and relays its progress and its error.
func (b *build) imgbuild(ctx context.Context, out string, j *pipeline.Job) error {
	r, w := io.Pipe()
	said := make(chan error, 1)
	go func() { said <- j.Progress.Relay(r) }()
	args := []string{filepath.Join(b.env.Bin, "imgbuild"), "build", "--json", "-o", out, b.definition}
	if b.refresh {
		args = append(args, "--refresh")
	}
	err := command.Exec{
		Args:   args,
		Stdout: io.MultiWriter(w, j.Log), Log: j.Log, Grace: imgbuildGrace,
		Remedy: "'make build' puts all programs into one directory",
	}.Run(ctx)
	_ = w.Close()
	msg := <-said
	ee, exited := errors.AsType[*command.ExitError](err)
	switch {
	case exited && ee.Status < 0:
		return fmt.Errorf("imgbuild was ended by signal %d (%s)", ee.Signal, ee.Signal)
	case exited && msg != nil:
		return b.explain(msg, out, j)
	}
	return err
}

// explain tells imgbuild's error in the words of a run: its directory for
// outputs goes, what was logged there is kept in the attempt's, and a full
// file system is the store's.
func (b *build) explain(msg error, out string, j *pipeline.Job) error {
	e := &command.Error{
		Status: command.Status(msg), Hint: strings.ReplaceAll(command.HintOf(msg), out, j.Dir),
		Err: errors.New(strings.ReplaceAll(msg.Error(), out, b.env.Store.Dir)),
	}
	if strings.Contains(msg.Error(), out) && strings.Contains(msg.Error(), syscall.ENOSPC.Error()) {
		e.Hint = "free some space there, or keep runs in another directory with --dir"
	}
	return e
}

// store puts what was built into the layout.
func (b *build) store(ctx context.Context, out string, j *pipeline.Job) (*pipeline.Outcome, error) {
	found, err := filesIn(out, ".manifest.json")
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("imgbuild left %d manifests; expected one (%w)", len(found), err)
	}
	file := filepath.Join(out, found[0])
	m, err := imagebuild.ReadManifest(file)
	if err != nil {
		return nil, err
	}
	raw := m.Output("raw")
	if raw == nil {
		return nil, command.BadInput(fmt.Errorf("%s: writes no raw disk", b.definition), "add raw to its outputs")
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	images := b.env.Store.Images
	step := j.Progress.Start("store the image")
	digest, existed, err := images.PutImage(ctx, raw.Path, m.Image(raw))
	if existed {
		step.Cached("the same bytes as before")
	} else {
		step.Done(err, "")
	}
	if err != nil {
		return nil, err
	}
	if _, err := images.Attach(digest, registry.ManifestType, nil,
		registry.Blob{Title: "manifest.json", MediaType: registry.ManifestType, Content: content}); err != nil {
		return nil, err
	}
	if err := b.env.Store.adopt(raw.Path, raw.SHA256); err != nil {
		return nil, err
	}
	if b.key != "" {
		if err := b.env.Store.sign(digest, b.key); err != nil {
			return nil, err
		}
	}
	if err := b.attest(ctx, out, digest, m, j); err != nil {
		return nil, err
	}
	return &pipeline.Outcome{Image: digest, Notes: []string{
		fmt.Sprintf("built %s %s: %s", m.Name, m.Version, digest),
		"  its disk: " + b.env.Store.diskPath(raw.SHA256),
	}}, nil
}
