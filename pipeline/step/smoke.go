package step

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/seed"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/libvirt"
	"goldsmith/testbed/machinetest"
)

// smoke starts a machine from the image, waits until it has configured
// itself, and runs the smoke tests of the image's elements against it.
type smoke struct {
	env  Env
	with smokeWith
}

// smokeWith are the parameters of a smoke stage. Zero values have the
// defaults that docs/formats.md gives.
type smokeWith struct {
	Machine  string         // the driver: libvirt
	URI      string         // of the libvirtd; empty or "private" means one of our own
	Listen   string         // address at which machines reach us; empty means the private libvirtd's gateway
	Firmware string         // uefi or bios; empty means uefi
	CPUs     int            `yaml:"cpus"`
	Memory   int            // MiB
	Metadata map[string]any // what the machine is told, beside what every machine is
}

// privateURI asks for a libvirtd of our own, hidden in namespaces.
const privateURI = "private"

func newSmoke(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	s := &smoke{env: env}
	if err := p.DecodeWith(stage, &s.with); err != nil {
		return nil, err
	}
	bad := func(key, format string, args ...any) error { return p.Errorf(stage, key, format, args...) }
	w := &s.with
	if w.Machine == "" {
		w.Machine = "libvirt"
	}
	if w.URI == "" {
		w.URI = privateURI
	}
	switch {
	case w.Machine != "libvirt":
		return nil, bad("machine", "with.machine %q: expected libvirt", w.Machine)
	case !slices.Contains([]testbed.Firmware{"", testbed.UEFI, testbed.BIOS}, testbed.Firmware(w.Firmware)):
		return nil, bad("firmware", "with.firmware %q: expected uefi or bios", w.Firmware)
	case w.URI != privateURI && w.Listen == "":
		return nil, bad("uri", "with.listen is missing: the address of this host that machines of %s can reach", w.URI)
	case w.CPUs < 0 || w.CPUs > 256 || w.Memory < 0 || w.Memory > 1<<20:
		return nil, bad("cpus", "with.cpus or with.memory is out of range")
	}
	for _, key := range []string{"instance-id", "completion-signal", "completion-token"} {
		if _, ok := w.Metadata[key]; ok {
			return nil, bad("metadata", "with.metadata: %s is made for each machine and cannot be given", key)
		}
	}
	return s, nil
}

// Check implements pipeline.Checker.
func (s *smoke) Check(ctx context.Context) error {
	if _, err := exec.LookPath("ssh"); err != nil {
		return command.Missing(errors.New("ssh is not installed"), "install openssh-client")
	}
	if _, _, err := testbed.Firmware(s.with.Firmware).Files(); err != nil {
		return err
	}
	if s.with.URI == privateURI {
		return libvirt.CheckBed()
	}
	host, err := libvirt.Connect(ctx, s.with.URI)
	if err != nil {
		return err
	}
	return host.Close()
}

// Run implements pipeline.Step.
func (s *smoke) Run(ctx context.Context, j *pipeline.Job) (*pipeline.Outcome, error) {
	if err := needImage(j); err != nil {
		return nil, err
	}
	e := &evidence.Evidence{
		Kind: s.with.Machine + "-smoke", Subject: j.Image, Run: j.Run, Stage: j.Stage, Attempt: j.Attempt, Started: time.Now().UTC(),
	}
	e.Machine = evidence.Machine{
		Driver: s.with.Machine, Firmware: cmp.Or(s.with.Firmware, string(testbed.UEFI)), Accelerator: testbed.Accelerator(ctx),
	}
	tests, err := s.test(ctx, j)
	if err != nil {
		// The testbed failed, not the image: that proves nothing about it.
		return nil, err
	}
	e.Tests, e.Ended, e.Result = tests, time.Now().UTC(), evidence.Judge(tests)
	junit, err := e.JUnit()
	if err != nil {
		return nil, err
	}
	err = errors.Join(atomicfile.Write(filepath.Join(j.Dir, "junit.xml"), junit, 0o644),
		atomicfile.Write(filepath.Join(j.Dir, "results.tap"), e.TAP(), 0o644))
	if err != nil {
		return nil, err
	}
	if err := s.env.Store.Attach(e); err != nil {
		return nil, err
	}
	summary := evidence.Summary(tests)
	j.Progress.Info("%s", summary)
	if e.Result != evidence.Pass {
		return nil, failure(tests, summary)
	}
	return &pipeline.Outcome{Notes: []string{
		fmt.Sprintf("tested on %s: %s", s.with.Machine, summary),
		"  results, console and journal: " + j.Dir,
	}}, nil
}

// failure names the first failed test.
func failure(tests []evidence.Test, summary string) error {
	for _, t := range tests {
		if t.Result == evidence.Fail {
			return fmt.Errorf("%s: %s/%s: %s", summary, t.Element, t.Name, t.Reason)
		}
	}
	return errors.New(summary)
}

// test has everything that must be released: it returns the tests' results,
// or an error when the testbed itself failed.
func (s *smoke) test(ctx context.Context, j *pipeline.Job) (tests []evidence.Test, err error) {
	img, err := s.env.Store.Images.Image(j.Image)
	if err != nil {
		return nil, err
	}
	disk, err := s.env.Store.Disk(ctx, j.Image)
	if err != nil {
		return nil, err
	}
	if testbed.Firmware(s.with.Firmware) == testbed.BIOS {
		if err := startsUnderBIOS(disk); err != nil {
			return nil, err
		}
	}
	host, gateway, closeHost, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeHost()) }()
	listener, err := host.Network.Listen(ctx, "tcp", net.JoinHostPort(gateway, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen for the machine at %s: %w", gateway, err)
	}
	instance := fmt.Sprintf("%s-%s-%s-%d", img.Name, j.Run, j.Stage, j.Attempt)
	signals := receive(listener, instance)
	defer signals.close()
	// What machine and tests need for this attempt only, secrets among it.
	tmp, err := s.env.Store.scratch("smoke-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	d, err := newDeployment(tmp, instance, img, signals, s.with.Metadata)
	if err != nil {
		return nil, err
	}
	m, err := host.Define(ctx, libvirt.Config{
		Name: instance, Dir: filepath.Join(tmp, "machine"), Image: disk, Seed: d.seedFile,
		Firmware: testbed.Firmware(s.with.Firmware), CPUs: s.with.CPUs, MemoryMiB: s.with.Memory,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, m.Release(context.WithoutCancel(ctx)), keepConsole(m, j.Dir))
	}()
	return d.prove(ctx, s.env.Elements, j, host.Network, m, signals)
}

// startsUnderBIOS refuses a raw disk without a program in its first sector: a
// machine would wait for one until the stage's time is over.
func startsUnderBIOS(disk string) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	code := make([]byte, 440)
	if _, err := io.ReadFull(f, code); err != nil {
		return fmt.Errorf("read %s: %w", disk, err)
	}
	if len(bytes.Trim(code, "\x00")) > 0 {
		return nil
	}
	return command.BadInput(errors.New("firmware bios: the image's disk has no boot loader for a BIOS"),
		"element boot puts GRUB into an image")
}

// connect returns the libvirtd, the address where machines reach us, and what
// ends both.
func (s *smoke) connect(ctx context.Context) (*libvirt.Host, string, func() error, error) {
	if s.with.URI == privateURI {
		bed, err := libvirt.StartBed(ctx)
		if err != nil {
			return nil, "", nil, err
		}
		return bed.Host, libvirt.Gateway.String(), bed.Close, nil
	}
	host, err := libvirt.Connect(ctx, s.with.URI)
	if err != nil {
		return nil, "", nil, err
	}
	return host, s.with.Listen, host.Close, nil
}

func keepConsole(m *libvirt.Machine, dir string) error {
	in, err := os.Open(m.Console().Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(dir, "console.log"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// deployment is one machine's identity and secrets.
type deployment struct {
	dir          string // private to this attempt
	instance     string
	elements     []string
	keys         *sshKeys
	metadataFile string
	seedFile     string
}

func newDeployment(dir, instance string, img *registry.Image, signals *receiver, extra map[string]any) (*deployment, error) {
	keys, err := newSSHKeys(dir)
	if err != nil {
		return nil, err
	}
	md := maps.Clone(extra)
	if md == nil {
		md = map[string]any{}
	}
	maps.Copy(md, map[string]any{
		"instance-id":         instance,
		"local-hostname":      img.Name,
		"image":               map[string]any{"digest": img.Digest, "name": img.Name, "version": img.Version},
		"ssh-authorized-keys": []string{keys.public},
		"completion-signal":   signals.URL,
		"completion-token":    signals.Token,
	})
	d := &deployment{
		dir: dir, instance: instance, elements: img.Elements, keys: keys,
		metadataFile: filepath.Join(dir, "metadata.json"), seedFile: filepath.Join(dir, "seed.img"),
	}
	if err := writeJSON(d.metadataFile, md); err != nil {
		return nil, err
	}
	return d, seed.Write(d.seedFile, seed.Seed{
		InstanceID: instance, Hostname: img.Name, AuthorizedKeys: []string{keys.public}, Metadata: md,
	})
}

// dead matches what a console says when a machine will never get further.
var dead = regexp.MustCompile(`(?m)Kernel panic - not syncing[^\r\n]*|imginit: [^\r\n]*BOOT FAILED[^\r\n]*|You are in emergency mode`)

// prove starts the machine and returns what can be said about the image. An
// error means that nothing can be said.
func (d *deployment) prove(ctx context.Context, elements elementFinder, j *pipeline.Job, network testbed.Network, m *libvirt.Machine, signals *receiver) ([]evidence.Test, error) {
	step := j.Progress.Start("boot and configure")
	started := time.Now()
	if err := m.PowerOn(ctx); err != nil {
		step.Done(err, "")
		return nil, err
	}
	configured := evidence.Test{Name: "configured", Element: "boot", Result: evidence.Pass}
	err := d.awaitSignal(ctx, m, signals)
	configured.Seconds = time.Since(started).Seconds()
	if err != nil {
		configured.Result, configured.Reason = evidence.Fail, machinetest.OneLine(err.Error())
	}
	step.Done(err, "")
	if ctx.Err() != nil && !isLate(ctx) {
		return nil, context.Cause(ctx)
	}
	if err := readConsole(&configured, m.Console(), err); err != nil {
		return nil, err
	}
	tests := []evidence.Test{configured}
	addr, err := address(ctx, m)
	if err != nil {
		return nil, err
	}
	ssh := &testbed.SSH{Addr: netip.AddrPortFrom(addr, 22).String(), Key: d.keys.signer, Network: network}
	defer ssh.Close()
	defer keepJournal(ctx, ssh, j)
	if configured.Result != evidence.Pass {
		return tests, nil
	}
	if err := d.login(ctx, ssh, addr); err != nil {
		return append(tests, evidence.Test{Name: "login", Element: "ssh-server", Result: evidence.Fail, Reason: machinetest.OneLine(err.Error())}), nil
	}
	more, err := d.runTests(ctx, elements, j, network, addr, ssh, m.Console())
	return append(tests, more...), err
}

// readConsole fails what passed when the console shows what is always bad, and
// says whose fault a failure is.
func readConsole(t *evidence.Test, console *testbed.Console, err error) error {
	text, cerr := console.Text()
	if cerr != nil {
		return cerr
	}
	found := machinetest.Scan(text)
	if t.Result == evidence.Pass && len(found) > 0 {
		t.Result, t.Reason = evidence.Fail, "it configured itself, but "+found[0].String()
	}
	if t.Result == evidence.Fail {
		t.Class, t.Because = machinetest.Classify(err, found)
	}
	return nil
}

// address asks for the machine's address, also when the stage's own time is
// over: the journal is wanted then more than ever.
func address(ctx context.Context, m testbed.Addressed) (netip.Addr, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), addressLimit)
	defer cancel()
	return m.Address(ctx)
}

// isLate tells whether the context ended because the stage took too long,
// which is the image's fault until somebody shows otherwise.
func isLate(ctx context.Context) bool {
	return ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled)
}

// awaitSignal waits until the machine reports, or dies on the console.
func (d *deployment) awaitSignal(ctx context.Context, m *libvirt.Machine, signals *receiver) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var watch sync.WaitGroup
	watch.Go(func() {
		if line, _, err := m.Console().Wait(ctx, 0, dead); err == nil {
			cancel(fmt.Errorf("the console says: %s", line))
		}
	})
	s, err := signals.wait(ctx)
	cancel(nil)
	watch.Wait()
	switch {
	case err != nil:
		return fmt.Errorf("no completion signal: %w", err)
	case s.Status != "SUCCESS":
		return fmt.Errorf("the machine reports %s: %s", s.Status, s.Reason)
	}
	return nil
}
