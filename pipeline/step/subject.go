package step

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/internal/registry"
	"goldsmith/internal/seed"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/machinetest"
)

// subject is a machine and what it is told: what a suite works with.
type subject struct {
	env      Env
	job      *pipeline.Job
	bench    bench
	api      *machineapi.Server
	driver   string
	suite    string         // its name
	metadata map[string]any // the stage's
	scratch  string         // private to this attempt
	snoozes  *machinetest.Snoozes
	wanted   testsWith
	again    int             // how often a failed test is run again
	patience time.Duration   // with a machine that does not answer; 0 is the runner's
	how      string          // with.shell
	isolated bool            // the machine has no network
	over     <-chan struct{} // closed when the stage's time is over
	// follows: the machine is told from where its image is, learns by which
	// digest, and can be updated. Set before install.
	follows bool

	tests   []evidence.Test // of the suite, so far; of suites with parts
	figures []evidence.Measurement

	number       int             // of machines before this one
	dir          string          // private to this machine
	keep         string          // where what it leaves goes
	from         int64           // where its part of the console begins
	img          *registry.Image // what the machine was installed with
	m            machine
	told         *machineapi.Machine
	keys         *sshKeys
	metadataFile string
	shell        testbed.Shell
	ssh          *testbed.SSH // shell, where that is one
	relay        *relay       // for tests; nil where they use ssh
	addr         netip.Addr
}

// install makes a machine with that image, by digest. It is powered off, or at
// least has not started from the image.
func (s *subject) install(ctx context.Context, digest string) error {
	var err error
	if s.img, err = s.env.Store.Images.Image(digest); err != nil {
		return err
	}
	if s.keys, err = newSSHKeys(s.dir); err != nil {
		return err
	}
	instance := instanceName(s.img, s.job)
	if s.number > 0 {
		instance += fmt.Sprintf("-%d", s.number+1)
	}
	// Without a source nothing is wanted: it is what it was deployed with.
	image := map[string]any{"digest": s.img.Digest, "name": s.img.Name, "version": s.img.Version}
	if s.follows {
		image["source"] = s.api.Images()
	}
	md := s.tell(image)
	if s.told, err = s.api.Add(instance, md); err != nil {
		return err
	}
	all := s.told.Metadata(md)
	s.metadataFile = filepath.Join(s.dir, "metadata.json")
	if err := writeJSON(s.metadataFile, all); err != nil {
		return err
	}
	o := order{Name: instance, Dir: filepath.Join(s.dir, "machine"), Image: s.img, Job: s.job, Updates: s.follows,
		Seed: seed.Seed{InstanceID: instance, Hostname: s.img.Name, AuthorizedKeys: []string{s.keys.public}, Metadata: all}}
	if m, ok := s.m.(renewable); ok {
		return m.renew(ctx, o)
	}
	s.m, err = s.bench.install(ctx, o)
	return err
}

// tell makes the machine's metadata with an image to run.
func (s *subject) tell(image map[string]any) map[string]any {
	md := maps.Clone(s.metadata)
	if md == nil {
		md = map[string]any{}
	}
	maps.Copy(md, map[string]any{
		"local-hostname":      s.img.Name,
		"image":               image,
		"ssh-authorized-keys": []string{s.keys.public},
	})
	return md
}

// want has the machine run another image, by its metadata. restart is reboot or
// kexec.
func (s *subject) want(digest, restart string) error {
	return s.told.Tell(s.tell(map[string]any{"digest": digest, "source": s.api.Images(), "restart": restart}))
}

// release gives everything back, and keeps the console.
func (s *subject) release(ctx context.Context) error {
	var errs []error
	s.closeShell()
	if s.told != nil {
		s.told.Forget()
	}
	if s.m != nil {
		errs = append(errs, s.m.Release(context.WithoutCancel(ctx)), s.keepConsole(s.m))
	}
	return errors.Join(errs...)
}

// dead matches what a console says when a machine will never get further.
var dead = regexp.MustCompile(`(?m)Kernel panic - not syncing[^\r\n]*|imginit: [^\r\n]*BOOT FAILED[^\r\n]*|You are in emergency mode`)

// boot starts the machine and waits until it has configured itself. An error
// means that nothing can be said about the image.
func (s *subject) boot(ctx context.Context) (evidence.Test, error) {
	t := evidence.Test{Name: "configured", Element: "boot", Result: evidence.Pass}
	step := s.job.Progress.Start("boot and configure")
	started := time.Now()
	if err := s.m.PowerOn(ctx); err != nil {
		step.Done(err, "")
		return t, err
	}
	err := s.awaitSuccess(ctx)
	t.Seconds = time.Since(started).Seconds()
	if err != nil {
		t.Result, t.Reason = evidence.Fail, machinetest.OneLine(err.Error())
	}
	step.Done(err, "")
	if ctx.Err() != nil && !isLate(ctx) {
		return t, context.Cause(ctx)
	}
	return t, readConsole(&t, s.m.Console(), s.from, err)
}

// reach finds the machine's address, also when the stage's own time is over:
// the journal is wanted then more than ever.
func (s *subject) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), addressLimit)
	defer cancel()
	var err error
	if !s.isolated {
		if s.addr, err = s.m.Address(ctx); err != nil {
			return err
		}
	}
	if s.local() {
		if s.shell == nil {
			err = s.openLocal()
		}
		return err
	}
	s.ssh = &testbed.SSH{Addr: netip.AddrPortFrom(s.addr, 22).String(), Key: s.keys.signer, Network: s.bench.network()}
	s.shell = s.ssh
	return nil
}

// awaitSuccess waits until the machine reports success, or dies on the console.
func (s *subject) awaitSuccess(ctx context.Context) error {
	sig, err := s.awaitSignal(ctx, s.from)
	switch {
	case err != nil:
		return fmt.Errorf("no completion signal: %w", err)
	case !sig.OK():
		return fmt.Errorf("the machine reports %s: %s", sig.Status, sig.Reason)
	}
	return nil
}

// awaitSignal waits for the next signal, or until the console shows after mark
// that none will come.
func (s *subject) awaitSignal(ctx context.Context, mark int64) (machineapi.Signal, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	watch.Go(func() {
		if line, _, err := s.m.Console().Wait(ctx, mark, dead); err == nil {
			cancel(fmt.Errorf("the console says: %s", line))
		}
	})
	ask := s.told.Signal
	if s.isolated {
		ask = s.pull
	}
	sig, err := ask(ctx)
	if err == nil {
		noteHealth(ctx, s.m, sig)
	}
	cancel(nil)
	watch.Wait()
	return sig, err
}

// isLate tells whether the context ended because the stage took too long,
// which is the image's fault until somebody shows otherwise.
func isLate(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled)
}

// readConsole fails what passed when the console shows after mark what is always
// bad, and says whose fault a failure is.
func readConsole(t *evidence.Test, console *testbed.Console, mark int64, err error) error {
	text, cerr := console.Text()
	if cerr != nil {
		return cerr
	}
	found := machinetest.Scan(text[min(mark, int64(len(text))):])
	if t.Result == evidence.Pass && len(found) > 0 {
		t.Result, t.Reason = evidence.Fail, "it configured itself, but "+found[0].String()
	}
	if t.Result == evidence.Fail {
		t.Class, t.Because = machinetest.Classify(err, found)
	}
	return nil
}
