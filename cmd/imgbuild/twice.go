package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/filelist"
	"goldsmith/internal/imagebuild"
)

// twiceFlags are the flags of 'imgbuild build' that build a second time.
type twiceFlags struct {
	on, vary bool
	keep     string
}

func (t *twiceFlags) check(out string) error {
	if !t.on {
		if t.vary || t.keep != "" {
			return command.Usage("--vary and --keep are of a second build", "add --twice")
		}
		return nil
	}
	if t.keep == "" {
		return nil
	}
	list, err := os.ReadDir(t.keep)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return command.BadInput(err, "")
	}
	if len(list) > 0 || filepath.Clean(t.keep) == filepath.Clean(out) {
		return command.Usage(t.keep+": the second build needs a directory of its own, which is empty",
			"name another with --keep")
	}
	return nil
}

// run builds a second time, and says how that went.
func (t *twiceFlags) run(ctx context.Context, s *secondBuild) error {
	s.vary, s.keep = t.vary, t.keep
	c, err := s.run(ctx)
	if err != nil {
		return err
	}
	differs := c.report(s.opts.Progress)
	if differs == nil {
		for _, o := range s.first.Outputs {
			s.opts.Progress.Info("built %s sha256:%s", o.Path, o.SHA256)
		}
	}
	s.opts.Progress.Result(twiceResult{s.first, c})
	return differs
}

// secondBuild builds what was built a second time, from nothing, in a process
// of its own. Whatever ends this one ends it: it is in this one's namespaces.
type secondBuild struct {
	definition, elements string // as on the command line
	opts                 imagebuild.Options
	vary                 bool
	keep                 string // directory for its outputs; empty means that they are not kept
	first                *imagebuild.Result

	how *variation
}

// twiceResult is the result of 'imgbuild build --twice --json'.
type twiceResult struct {
	*imagebuild.Result
	Twice *comparison `json:"twice"`
}

// run builds and compares.
func (s *secondBuild) run(ctx context.Context) (_ *comparison, err error) {
	dir, release, err := s.prepare(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	for _, n := range s.how.not {
		s.opts.Progress.Info("not varied: %s", n)
	}
	out := s.keep
	if out == "" {
		out = filepath.Join(dir, "out")
	}
	if err := s.how.apply(func() error { return s.build(ctx, out) }); err != nil {
		return nil, err
	}
	c := &comparison{Outputs: len(s.first.Outputs), Varied: s.how.what, NotVaried: s.how.not}
	step := s.opts.Progress.Start("compare")
	err = c.compare(ctx, s.opts.Out, out, s.first)
	step.Done(err, "")
	return c, err
}

// prepare makes the second build's scratch directory, and decides how it is
// built.
func (s *secondBuild) prepare(ctx context.Context) (dir string, release func() error, err error) {
	c, err := imagebuild.OpenCache(s.opts.Cache)
	if err != nil {
		return "", nil, err
	}
	if dir, release, err = c.Scratch(ctx, s.opts.Progress); err != nil {
		return "", nil, err
	}
	if s.vary {
		var content int64
		if content, err = contentOf(filesOf(s.first)); err == nil {
			s.how, err = otherwise(ctx, dir, content)
		}
	} else {
		s.how, err = plainly(dir)
	}
	if err == nil {
		err = c.ShareDownloads(s.how.cache)
	}
	if err != nil {
		return "", nil, errors.Join(err, release())
	}
	return dir, release, nil
}

// secondGrace is how long the second build may take to remove a half-made
// tree.
const secondGrace = 30 * time.Second

// build runs this program once more.
func (s *secondBuild) build(ctx context.Context, out string) error {
	args := []string{
		os.Args[0], "build", "--json", "--cache", s.how.cache, "-o", out, "--elements-path", s.elements,
		fmt.Sprintf("--locked=%t", s.opts.Locked), fmt.Sprintf("--offline=%t", s.opts.Offline),
	}
	if s.opts.HookTimeout > 0 {
		args = append(args, "--hook-timeout", s.opts.HookTimeout.String())
	}
	r, w := io.Pipe()
	said := make(chan error, 1)
	go func() { said <- s.opts.Progress.Within("again").Relay(r) }()
	err := command.Exec{
		Path: "/proc/self/exe", Args: append(args, s.definition), Env: s.how.env, Sys: s.how.sys, Stdout: w,
		Log: io.Discard, Grace: secondGrace,
	}.Run(ctx)
	_ = w.Close()
	msg := <-said
	if _, exited := errors.AsType[*command.ExitError](err); !exited || msg == nil {
		return err
	}
	hint := command.HintOf(msg)
	if s.keep == "" && strings.Contains(hint, out) {
		hint = "keep its log and outputs with --keep DIRECTORY"
	}
	return command.Hint(fmt.Errorf("the second build: %w", msg), hint)
}

// filesOf is the path of the image's file list.
func filesOf(r *imagebuild.Result) string {
	return strings.TrimSuffix(r.Manifest, ".manifest.json") + ".files"
}

// readFiles reads a file list.
func readFiles(path string) ([]filelist.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []filelist.File
	for d := json.NewDecoder(f); ; {
		var line filelist.File
		if err := d.Decode(&line); err == io.EOF {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, line)
	}
}

// contentOf adds up the sizes of files, in bytes.
func contentOf(list string) (int64, error) {
	files, err := readFiles(list)
	var n int64
	for _, f := range files {
		if f.Link == "" {
			n += f.Size
		}
	}
	return n, err
}
