package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"time"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/trust"
	"goldsmith/internal/update"
	"goldsmith/internal/update/fetch"
)

// installFlags are those of 'imgupdate install' and 'imgupdate follow'.
type installFlags struct {
	options
	cache, list, failure string
	retry, reboot, kexec bool
	timeout              time.Duration // of follow
}

// Where chunks of an image are kept until it is installed, and where it stands
// that it could not be.
const (
	defaultCache   = "/var/lib/goldsmith/imgupdate"
	defaultFailure = "/run/goldsmith/update-failed"
)

func (f *installFlags) declareShared(fs *flag.FlagSet) {
	f.declareJSON(fs)
	fs.StringVar(&f.trust, "trust", trust.Dir, "`directory` of the keys that may sign images")
	fs.StringVar(&f.quiesce, "quiesce", update.DefaultQuiesce,
		"`directory` of programs that stop services before the restart")
	fs.StringVar(&f.cache, "cache", defaultCache, "`directory` for what was fetched, in its file chunks, until it is installed")
}

func installCommand() *command.Command {
	f := &installFlags{}
	return &command.Command{
		Name: "install", Args: "SOURCE@sha256:DIGEST",
		Short: "write an image into the slot that does not run, and have it tried at the next start",
		Long: "SOURCE is HOST/REPOSITORY, oci:DIRECTORY or the http URL of such a directory. The image's signature is verified\n" +
			"before anything is written. What the machine has already is not fetched; a download that was cut short goes on\n" +
			"where it was. An image that runs already is left alone, with status 0.",
		Example: "imgupdate install --reboot registry.example.com/demo@sha256:0123…",
		Flags: func(fs *flag.FlagSet) {
			f.declareShared(fs)
			fs.BoolVar(&f.retry, "retry", false, "install an image that failed on this machine before")
			fs.BoolVar(&f.reboot, "reboot", false, "restart the machine then")
			fs.BoolVar(&f.kexec, "kexec", false, "restart it without the firmware")
		},
		Run: func(ctx context.Context, io command.IO, words []string) error {
			if len(words) != 1 {
				return command.Usage("want one image", "such as imgupdate install HOST/REPOSITORY@sha256:…")
			}
			if f.reboot && f.kexec {
				return command.Usage("--reboot and --kexec: one of them", "--kexec restarts without the firmware")
			}
			m, err := f.machine(io)
			if err != nil {
				return err
			}
			armed, err := f.install(ctx, io, m, words[0])
			if err != nil || !armed || !f.reboot && !f.kexec {
				return err
			}
			return m.Restart(ctx, f.kexec)
		},
	}
}

// install installs an image. It is not armed when it runs already.
func (f *installFlags) install(ctx context.Context, io command.IO, m *update.Machine,
	ref string) (armed bool, err error) {
	progress := command.NewProgress("imgupdate", io, false)
	defer progress.Close()
	src, err := fetch.Open(ctx, ref, m.Say)
	if err != nil {
		return false, err
	}
	defer src.Close()
	img, stats, err := f.verified(ctx, progress, src)
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(f.cache, 0o700); err != nil {
		return false, err
	}
	o := update.Options{Retry: f.retry}
	if f.reboot || f.kexec { // else services go on until somebody restarts the machine
		o.Quiesce = func(ctx context.Context) error { return m.Quiesce(ctx, f.quiesce) }
	}
	err = m.Install(ctx, *img, o)
	if errors.Is(err, update.ErrRuns) {
		m.Say("image %s runs already", img.Digest)
		return false, fetch.Forget(f.cache)
	}
	if err == nil {
		err = fetch.Forget(f.cache) // otherwise the next attempt goes on from there
	}
	if err == nil && f.json {
		err = printJSON(io, stats)
	}
	return err == nil, err
}

// transfer is what an update took, in bytes.
type transfer struct {
	Digest  string `json:"digest"`
	Size    int64  `json:"size"`    // of root and kernel image
	Fetched int64  `json:"fetched"` // from the source, descriptions and signatures included
}

// verified is an image whose signature counts on this machine.
func (f *installFlags) verified(
	ctx context.Context, progress *command.Progress, src *fetch.Image,
) (*update.Image, *transfer, error) {
	policy, err := trust.Load(f.trust)
	if err != nil {
		return nil, nil, err
	}
	envelopes, err := src.Envelopes(ctx)
	if err != nil {
		return nil, nil, err
	}
	said, err := policy.VerifyAny(envelopes, src.Digest())
	if err != nil {
		return nil, nil, err
	}
	rel := src.Release()
	if err := said.Matches(&rel); err != nil {
		return nil, nil, err
	}
	t := &transfer{Digest: src.Digest()}
	part := func(p fetch.Part, name string) func(context.Context, update.Target, []update.Seed) error {
		return func(ctx context.Context, dst update.Target, seeds []update.Seed) error {
			step := progress.Start("fetch " + name)
			stats, err := src.Write(ctx, p, dst, fetch.Options{Seeds: asSeeds(seeds), Cache: f.cache})
			t.Size += stats.Size
			t.Fetched = src.Fetched()
			step.Done(err, fmt.Sprintf("%.1f of %.1f MiB fetched", float64(stats.Fetched)/(1<<20),
				float64(stats.Size)/(1<<20)))
			return err
		}
	}
	return &update.Image{Digest: src.Digest(), Release: &rel, Root: part(fetch.Root, "root"),
		UKI: part(fetch.UKI, "kernel")}, t, nil
}

func asSeeds(seeds []update.Seed) []fetch.Seed {
	var list []fetch.Seed
	for _, s := range seeds {
		list = append(list, fetch.Seed{ReaderAt: s.ReaderAt, Size: s.Size})
	}
	return list
}

// restartTime is how long a restart that was asked for may take to end this
// program.
const restartTime = 5 * time.Minute

func followCommand() *command.Command {
	f := &installFlags{}
	return &command.Command{
		Name: "follow", Short: "install the image that the metadata want, and restart the machine",
		Long: "The hook pre-configure.d/90-imgupdate calls it. Without image.digest in the metadata nothing is done, nor when\n" +
			"that image failed on this machine, or an operator went back from it. When it runs, another that waits for its\n" +
			"first start is called off, unless that is a rollback. An image that cannot be installed does not keep the\n" +
			"machine from being configured: the status is 0, and 'imgupdate prove' reports it at the end of the run; nor\n" +
			"does one that takes longer than --timeout, of which the next run fetches the rest. After an update it ends\n" +
			"with the machine.",
		Example: "imgupdate follow",
		Flags: func(set *flag.FlagSet) {
			f.declareShared(set)
			set.StringVar(&f.list, "os-config-files", "",
				"JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
			set.StringVar(&f.failure, "failure", defaultFailure, "`file` that says why an image could not be installed")
			set.DurationVar(&f.timeout, "timeout", defaultTimeout,
				"how long it may take to install an image, such as 90s")
		},
		Run: f.run(func(ctx context.Context, io command.IO, m *update.Machine) error {
			if f.timeout <= 0 {
				return command.Usage("--timeout is not positive", "give a duration, such as 30m")
			}
			if err := os.Remove(f.failure); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			armed, err := f.followInTime(ctx, io, m)
			if err != nil && ctx.Err() == nil {
				command.Print(io.Stderr, "imgupdate", err)
				return atomicfile.Write(f.failure, []byte(err.Error()+"\n"), 0o600)
			}
			if err != nil || !armed {
				return err
			}
			return f.restart(ctx, m)
		}),
	}
}

// defaultTimeout is how long a machine waits for its configuration because an
// image comes slowly.
const defaultTimeout = 30 * time.Minute

// followInTime is follow, given up after the time that it may take.
func (f *installFlags) followInTime(ctx context.Context, io command.IO, m *update.Machine) (armed bool, err error) {
	limited, stop := context.WithTimeout(ctx, f.timeout)
	defer stop()
	armed, err = f.follow(limited, io, m)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = command.Hint(fmt.Errorf("not installed in %s: %w", f.timeout, err),
			"what was fetched is kept for the next configuration run")
	}
	return armed, err
}

// follow installs the wanted image.
func (f *installFlags) follow(ctx context.Context, io command.IO, m *update.Machine) (armed bool, err error) {
	doc, err := applycfg.FromEnvironment(nil, f.list).LoadContext(ctx)
	if err != nil {
		return false, err
	}
	want, err := update.ParseWanted(doc)
	if err != nil || want.Digest == "" {
		return false, err
	}
	trial, err := m.Trial()
	if err != nil {
		return false, err
	}
	f.kexec, f.reboot = want.Kexec, !want.Kexec
	switch state, failure, err := m.Compare(ctx, want.Digest); {
	case err != nil:
		return false, err
	case state == update.Runs:
		return false, m.Stay(ctx)
	case state == update.HasBeen:
		m.Say("image %s failed on this machine and is not tried again: %s", want.Digest, failure.Reason)
		return false, nil
	case state == update.GoneFrom:
		m.Say("image %s is not installed again: %s; to have it nevertheless: imgupdate install", want.Digest, failure.Reason)
		return false, nil
	case trial:
		m.Say("image %s is wanted; first what runs has to prove itself", want.Digest)
		return false, nil
	case state == update.Waits:
		return true, m.Quiesce(ctx, f.quiesce)
	}
	armed, err = f.install(ctx, io, m, want.Source+"@"+want.Digest)
	if err == nil && !armed { // it runs, and its digest was not known
		err = m.Stay(ctx)
	}
	return armed, err
}

// restart restarts the machine and waits for that to end this program: no hook
// after this one is to run.
func (f *installFlags) restart(ctx context.Context, m *update.Machine) error {
	err := m.Restart(ctx, f.kexec)
	if err != nil && f.kexec && ctx.Err() == nil { // services are stopped already
		m.Say("%v; with the firmware, then", err)
		err = m.Restart(ctx, false)
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(restartTime):
		return fmt.Errorf("the machine did not restart in %s", restartTime)
	}
}
