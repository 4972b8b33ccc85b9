package step

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/internal/seed"
	"goldsmith/pipeline"
	"goldsmith/testbed"
	"goldsmith/testbed/libvirt"
)

// privateURI asks for a libvirtd of our own, hidden in namespaces.
const privateURI = "private"

// libvirtPlace makes virtual machines for a stage.
type libvirtPlace struct {
	env  Env
	with *machineWith
}

func newLibvirtPlace(env Env, w *machineWith, bad func(key, format string, args ...any) error) (place, error) {
	if w.URI == "" {
		w.URI = privateURI
	}
	switch {
	case w.URI != privateURI && w.Listen == "":
		return nil, bad("uri", "with.listen is missing: the address of this host that machines of %s can reach", w.URI)
	case w.CPUs < 0 || w.CPUs > 256 || w.Memory < 0 || w.Memory > 1<<20:
		return nil, bad("cpus", "with.cpus or with.memory is out of range")
	}
	return &libvirtPlace{env, w}, nil
}

func (p *libvirtPlace) check(ctx context.Context) error {
	if _, _, err := testbed.Firmware(p.with.Firmware).Files(); err != nil {
		return err
	}
	if p.with.URI == privateURI {
		return libvirt.CheckBed()
	}
	host, err := libvirt.Connect(ctx, p.with.URI)
	if err != nil {
		return err
	}
	return host.Close()
}

func (p *libvirtPlace) open(ctx context.Context, j *pipeline.Job) (bench, error) {
	if p.with.URI == privateURI {
		bed, err := libvirt.StartBed(ctx)
		if err != nil {
			return nil, err
		}
		return &libvirtBench{p, bed.Host, libvirt.Gateway.String(), bed.Close, j.Log, nil}, nil
	}
	host, err := libvirt.Connect(ctx, p.with.URI)
	if err != nil {
		return nil, err
	}
	return &libvirtBench{p, host, p.with.Listen, host.Close, j.Log, nil}, nil
}

// libvirtBench is a libvirtd.
type libvirtBench struct {
	*libvirtPlace
	host      *libvirt.Host
	gateway   string // where machines reach us
	closeHost func() error
	log       io.Writer // the stage's
	server    *http.Server
}

func (b *libvirtBench) network() testbed.Network { return b.host.Network }

func (b *libvirtBench) serve(ctx context.Context) (*machineapi.Server, error) {
	l, err := b.host.Network.Listen(ctx, "tcp", net.JoinHostPort(b.gateway, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen for the machine at %s: %w", b.gateway, err)
	}
	api := machineapi.New("http://"+l.Addr().String(), b.env.Store.Images.Dir())
	api.Refused = func(r *http.Request, why string) {
		fmt.Fprintf(b.log, "refused: %s: %s %s: %s\n", r.RemoteAddr, r.Method, command.Line(r.URL.Path), why)
	}
	b.server = &http.Server{Handler: api, ReadHeaderTimeout: 30 * time.Second, ReadTimeout: 2 * time.Minute}
	go b.server.Serve(l) //nolint:errcheck // it ends with ErrServerClosed by close
	return api, nil
}

func (b *libvirtBench) install(ctx context.Context, o order) (machine, error) {
	disk, err := b.env.Store.Disk(ctx, o.Image.Digest)
	if err != nil {
		return nil, err
	}
	if testbed.Firmware(b.with.Firmware) == testbed.BIOS {
		if err := startsUnderBIOS(disk); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, err
	}
	file := o.Dir + "/seed.img"
	if err := seed.Write(file, o.Seed); err != nil {
		return nil, err
	}
	m, err := b.host.Define(ctx, libvirt.Config{
		Name: o.Name, Dir: o.Dir, Image: disk, Seed: file,
		Firmware: testbed.Firmware(b.with.Firmware), CPUs: b.with.CPUs, MemoryMiB: b.with.Memory,
		Isolated: b.with.Network == noNetwork,
	})
	if err != nil { // not a typed nil
		return nil, err
	}
	return virtual{m, evidence.Machine{Driver: "libvirt", Firmware: cmp.Or(b.with.Firmware, string(testbed.UEFI)),
		Accelerator: testbed.Accelerator(ctx)}}, nil
}

// virtual is a machine of libvirt.
type virtual struct {
	*libvirt.Machine
	what evidence.Machine
}

func (v virtual) describe(context.Context) evidence.Machine { return v.what }

func (b *libvirtBench) close() error {
	if b.server != nil {
		_ = b.server.Close()
	}
	return b.closeHost()
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
