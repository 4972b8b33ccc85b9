package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/trust"
	"goldsmith/internal/update"
)

func proveCommand() *command.Command {
	o := &options{}
	var list, failure string
	return &command.Command{
		Name: "prove", Short: "run the health checks; what runs is good when all of them are",
		Long: "The last hook of a configuration run calls it. All checks run, each for " + update.CheckTime.String() + " at most. The status is 1 when\n" +
			"one fails, and also when the metadata want an image that failed on this machine, that an operator went back\n" +
			"from, or that could not be installed: the run then reports that.",
		Example: "imgupdate prove",
		Flags: func(fs *flag.FlagSet) {
			o.declareJSON(fs)
			fs.StringVar(&o.health, "health", update.DefaultHealth, "`directory` of the checks")
			fs.StringVar(&list, "os-config-files", "",
				"JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
			fs.StringVar(&failure, "failure", defaultFailure,
				"`file` in which 'imgupdate follow' said why an image could not be installed")
		},
		Run: o.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			checks, err := m.RunHealth(ctx, o.health)
			if o.json {
				if err := printJSON(io, append([]update.Health{}, checks...)); err != nil {
					return err
				}
			}
			if err == nil {
				err = m.Good(ctx)
			}
			if err != nil {
				return err
			}
			return sayFailed(ctx, m, list, failure)
		}),
	}
}

// sayFailed is an error when the image that is wanted is not the one that runs,
// and why.
func sayFailed(ctx context.Context, m *update.Machine, list, failure string) error {
	doc, err := applycfg.FromEnvironment(nil, list).LoadContext(ctx)
	if err != nil {
		return err
	}
	want, err := update.ParseWanted(doc)
	if err != nil || want.Digest == "" {
		return err
	}
	state, f, err := m.Compare(ctx, want.Digest)
	switch {
	case err != nil:
		return err
	case state == update.HasBeen:
		return command.Hint(fmt.Errorf("image %s (version %s) failed on this machine, which runs the one before: %s",
			want.Digest, f.Version, f.Reason),
			"name another image.digest in the metadata, or try once more: imgupdate install --retry")
	case state == update.GoneFrom:
		return command.Hint(fmt.Errorf("image %s (version %s) is wanted and does not run: %s",
			want.Digest, f.Version, f.Reason),
			"name another image.digest in the metadata, or install it by hand: imgupdate install")
	case state == update.Runs:
		return nil
	}
	why, err := os.ReadFile(failure)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return command.Hint(fmt.Errorf("image %s could not be installed: %s", want.Digest, strings.TrimSpace(string(why))),
		"the next configuration run tries again")
}

func goodCommand() *command.Command {
	o := &options{}
	return &command.Command{
		Name: "good", Short: "end the trial of what runs: it is good",
		Long: "Without health checks, by an operator's word. Outside of a trial nothing is done, unless what runs is an image\n" +
			"that was good before, and the one that is recorded as good cannot be started: the machine then stays with it.",
		Example: "imgupdate good",
		Flags:   o.declare,
		Run:     o.run(func(ctx context.Context, _ command.IO, m *update.Machine) error { return m.Adopt(ctx) }),
	}
}

func badCommand() *command.Command {
	o := &options{}
	var reason string
	return &command.Command{
		Name: "bad", Short: "end the trial of what runs: return to the image before",
		Long: "The machine is restarted, and the reason is kept. An image that waits for its first start is called off\n" +
			"instead: it did not fail, and nothing is restarted. Otherwise it is an error.",
		Example: "imgupdate bad --reason 'customers see errors'",
		Flags: func(fs *flag.FlagSet) {
			o.declare(fs)
			fs.StringVar(&reason, "reason", "an operator said so", "why, in one `line`")
		},
		Run: o.run(func(ctx context.Context, _ command.IO, m *update.Machine) error {
			if done, err := m.Disarm(ctx); done || err != nil {
				return err
			}
			if err := m.Bad(ctx, reason); err != nil {
				return err
			}
			tellConsole("imgupdate: this image is bad: " + reason)
			return m.Restart(ctx, false)
		}),
	}
}

func failedRunCommand() *command.Command {
	o := &options{}
	var reason string
	return &command.Command{
		Name: "failed-run", Short: "count a configuration run that failed while what runs is on trial",
		Long: fmt.Sprintf("A hook in error.d calls it. The trial is over after %d of them in one start, and the machine is restarted.\n", update.MaxRuns) +
			"Outside of a trial nothing is done.",
		Example: "imgupdate failed-run --reason \"$GOLDSMITH_FAILURE\"",
		Flags: func(fs *flag.FlagSet) {
			o.declare(fs)
			fs.StringVar(&reason, "reason", "an unknown hook", "which hook it was, and what it said")
		},
		Run: o.run(func(ctx context.Context, _ command.IO, m *update.Machine) error {
			over, err := m.FailedRun(ctx, reason)
			if !over {
				return err
			}
			tellConsole("imgupdate: this image is bad: " + reason)
			return errors.Join(err, m.Restart(ctx, false))
		}),
	}
}

func watchCommand() *command.Command {
	o := &options{}
	var deadline time.Duration
	return &command.Command{
		Name: "watch", Short: "end a trial that does not come to its end",
		Long: "A unit runs it at every start. It waits while what runs is on trial; when that has not proved itself in time\n" +
			"the machine is restarted, into the image before. Outside of a trial it ends at once.",
		Example: "imgupdate watch --deadline 15m",
		Flags: func(fs *flag.FlagSet) {
			o.declare(fs)
			fs.DurationVar(&deadline, "deadline", 15*time.Minute, "how long a start on trial may take, such as 90s")
		},
		Run: o.run(func(ctx context.Context, _ command.IO, m *update.Machine) error {
			if deadline <= 0 {
				return command.Usage("--deadline is not positive", "give a duration, such as 15m")
			}
			return watch(ctx, m, deadline)
		}),
	}
}

func watch(ctx context.Context, m *update.Machine, deadline time.Duration) error {
	on, err := m.Trial()
	if err != nil || !on {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(deadline):
	}
	if on, err = m.Trial(); err != nil || !on {
		return err
	}
	reason := fmt.Sprintf("it did not prove itself in %s", deadline)
	// Where this cannot be said, the boot loader's count of starts ends it.
	err = m.Bad(ctx, reason)
	if on, terr := m.Trial(); terr == nil && !on {
		return nil // it proved itself meanwhile
	}
	tellConsole("imgupdate: this image is bad: " + reason)
	return errors.Join(err, m.Restart(ctx, false))
}

func rollbackCommand() *command.Command {
	o := &options{}
	var kexec bool
	return &command.Command{
		Name: "rollback", Short: "return to the image before, which is in the other slot",
		Long: "Nothing is fetched. The other slot is checked, block by block, before it is armed; it has to prove itself\n" +
			"again. During a trial the trial ends. The machine is restarted. 'imgupdate follow' does not install again what\n" +
			"was gone back from; 'imgupdate install' does.",
		Example: "imgupdate rollback",
		Flags: func(fs *flag.FlagSet) {
			o.declare(fs)
			fs.StringVar(&o.trust, "trust", trust.Dir, "`directory` that says which images are revoked")
			fs.StringVar(&o.quiesce, "quiesce", update.DefaultQuiesce,
				"`directory` of programs that stop services first")
			fs.BoolVar(&kexec, "kexec", false, "start it without the firmware")
		},
		Run: o.run(func(ctx context.Context, _ command.IO, m *update.Machine) error {
			trial, err := m.Trial()
			if err != nil {
				return err
			}
			if !trial { // a trial ends in any case
				if err := mayRun(m, o.trust); err != nil {
					return err
				}
			}
			err = m.Rollback(ctx, func(ctx context.Context) error { return m.Quiesce(ctx, o.quiesce) })
			if err != nil {
				return err
			}
			return m.Restart(ctx, kexec && !trial)
		}),
	}
}

// mayRun is an error when the image in the other slot is revoked by the one
// that runs, or too old for it. An image without keys says nothing of others.
func mayRun(m *update.Machine, dir string) error {
	policy, err := trust.Load(dir)
	if command.Status(err) == command.StatusMissing {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := m.Other()
	if err != nil {
		return err
	}
	const hint = "install another image, by its digest: imgupdate install"
	if policy.Revoked(s.Digest) {
		return command.BadInput(fmt.Errorf("image %s is revoked by the one that runs", s.Digest), hint)
	}
	if s.Digest == "" && s.State == update.Good && policy.RevokesImages() {
		return command.BadInput(fmt.Errorf("the digest of the image in the other slot (version %s) is not known, "+
			"and the image that runs revokes some", s.Version), hint)
	}
	if oldest := policy.Minimum(); s.Version != "" && oldest != "" && bootentry.CompareVersions(s.Version, oldest) < 0 {
		return command.BadInput(fmt.Errorf("version %s is older than %s, the oldest that is allowed",
			s.Version, oldest), hint)
	}
	return nil
}
