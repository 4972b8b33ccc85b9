package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

// brokenWith are the parameters of the suite broken-upgrade.
type brokenWith struct {
	machineWith `yaml:",inline"`
	Broken      string // a digest, a channel of the file, or the path of an image definition (*.yaml)
	Sign        string // the key for what the definition makes, relative to the pipeline file
	Why         string // what the machine's reason must contain; empty means anything
	Restart     string // reboot or kexec; empty means reboot
}

// brokenUpgrade tells a machine with the image under test to run one that
// cannot prove itself: it must return, with its data, and say why.
type brokenUpgrade struct {
	with   *brokenWith
	build  *build // of the broken image; nil: it is there
	broken *registry.Image
}

func newBrokenUpgrade(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	var w brokenWith
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	var errs []error
	bad := func(key, format string, args ...any) { errs = append(errs, p.Errorf(stage, key, format, args...)) }
	w.Restart = cmp.Or(w.Restart, "reboot")
	if w.Restart != "reboot" && w.Restart != "kexec" {
		bad("restart", "with.restart %q: expected reboot or kexec", w.Restart)
	}
	u := &brokenUpgrade{with: &w}
	switch {
	case w.Broken == "":
		bad("broken", "with.broken is missing: name an image that cannot prove itself, or its definition")
	case strings.HasSuffix(w.Broken, ".yaml"):
		u.build = &build{env: env, definition: env.path(w.Broken), key: env.path(w.Sign)}
		if _, err := os.Stat(u.build.definition); err != nil {
			bad("broken", "image definition %s is not there", u.build.definition)
		}
		if w.Sign == "" {
			bad("sign", "with.sign is missing: machines take no update without a signature")
		} else if _, err := trust.ReadPrivate(u.build.key); err != nil {
			bad("sign", "with.sign: %v", err)
		}
	case !strings.HasPrefix(w.Broken, "sha256:") && p.Channel(w.Broken) == nil:
		bad("broken", "with.broken %q is neither a digest, nor one of the file's channels, nor a .yaml file", w.Broken)
	}
	st, err := newOnMachine(env, p, stage, &w.machineWith, "broken-upgrade", u)
	return st, yamlfile.Join(append(errs, err)...)
}

// prepare implements preparer: it finds or builds the broken image.
func (u *brokenUpgrade) prepare(ctx context.Context, env Env, j *pipeline.Job) ([]evidence.Test, string, error) {
	img, err := env.Store.Images.Image(j.Image)
	if err != nil {
		return nil, "", err
	}
	digest := u.with.Broken
	switch {
	case u.build != nil:
		if digest, err = u.make(ctx, j); err != nil {
			return nil, "", err
		}
	case !strings.HasPrefix(digest, "sha256:"):
		tags, err := env.Store.Images.Tags()
		if err != nil {
			return nil, "", err
		}
		if digest = tags[u.with.Broken]; digest == "" {
			return nil, "", command.BadInput(fmt.Errorf("with.broken: nothing is in channel %s", u.with.Broken),
				"promote a broken image to it, or name one by its digest")
		}
	}
	if u.broken, err = env.Store.Images.Image(digest); err != nil {
		return nil, "", err
	}
	return nil, "", errors.Join(updatable(img), follows(img, u.broken))
}

// make builds the broken image; what that leaves is beside what the machine
// leaves.
func (u *brokenUpgrade) make(ctx context.Context, j *pipeline.Job) (string, error) {
	sub := *j
	sub.Dir = filepath.Join(j.Dir, "broken")
	if err := os.MkdirAll(sub.Dir, 0o755); err != nil {
		return "", err
	}
	out, err := u.build.Run(ctx, &sub)
	if err != nil {
		return "", fmt.Errorf("the broken image: %w", err)
	}
	return out.Image, nil
}

// Check implements pipeline.Checker.
func (u *brokenUpgrade) Check(ctx context.Context) error {
	if u.build == nil {
		return nil
	}
	return u.build.Check(ctx)
}

// run implements suite.
func (u *brokenUpgrade) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	s.follows = true
	return s.inParts(ctx, func(ctx context.Context) error {
		if err := s.begin(ctx, s.job.Image); err != nil {
			return err
		}
		data := newData()
		if err := s.part(ctx, "data", func(ctx context.Context) error { return data.put(ctx, s) }); err != nil {
			return err
		}
		before, err := s.bootID(ctx)
		if err != nil {
			return err
		}
		if err := s.part(ctx, "return", func(ctx context.Context) error { return u.returns(ctx, s, before) }); err != nil {
			return err
		}
		if err := s.part(ctx, "data-kept", func(ctx context.Context) error { return data.kept(ctx, s) }); err != nil {
			return err
		}
		return s.wellAgain(ctx)
	})
}

// returns tells the machine to run the broken image and waits until it is back.
func (u *brokenUpgrade) returns(ctx context.Context, s *subject, before string) error {
	end, err := s.update(ctx, u.broken.Digest, u.with.Restart)
	if err != nil {
		return err
	}
	if end.verdict != returned {
		return shown(fmt.Sprintf("the broken version %s was %s: %s", u.broken.Version, end.verdict,
			cmp.Or(end.why, "its health checks are good")))
	}
	s.measure("return-seconds", end.seconds, "s")
	now, err := s.bootID(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.job.Log, "returned: %s\n", end.why)
	s.job.Progress.Info("returned from version %s: %s", u.broken.Version, machinetest.OneLine(end.why))
	switch {
	case now == before:
		return shown("the broken image was never started")
	case end.why == "":
		return shown("the machine does not say why it returned")
	case !strings.Contains(end.why, u.with.Why):
		return shown(fmt.Sprintf("the machine returned for another reason than %q: %s", u.with.Why, end.why))
	}
	return nil
}

// wellAgain has the machine run the image under test by the metadata, too, and
// smoke tests it.
func (s *subject) wellAgain(ctx context.Context) error {
	err := s.part(ctx, "well", func(ctx context.Context) error {
		end, err := s.update(ctx, s.img.Digest, "reboot")
		if err != nil {
			return err
		}
		if end.verdict != proved {
			return shown(fmt.Sprintf("the image under test was %s: %s", end.verdict, end.why))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.smokeAgain(ctx, s.img, "after")
}

// data is a file that the machine keeps.
type data struct{ content string }

const (
	dataDir  = "/var/lib/goldsmith-suite"
	dataFile = dataDir + "/data"
)

func newData() data { return data{"precious"} }

func (d data) put(ctx context.Context, s *subject) error {
	_, err := s.output(ctx, "set -e; mkdir -p "+dataDir+"; echo "+testbed.Quote(d.content)+" >"+dataFile+
		"; sync "+dataFile+" "+dataDir)
	return err
}

func (d data) kept(ctx context.Context, s *subject) error {
	text, err := s.output(ctx, "cat "+dataFile+" 2>&1 || true")
	if err == nil && strings.TrimSpace(text) != d.content {
		err = shown(fmt.Sprintf("%s has %q; it was %q", dataFile, strings.TrimSpace(text), d.content))
	}
	return err
}
