package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/testbed"
	"goldsmith/testbed/libvirt"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/vbmc"
)

// vbmcOptions are the flags of 'imgpipe vbmc'.
type vbmcOptions struct {
	domain, connect, machine        string
	listen, user, password, control string
	serial                          string
	js                              bool
}

func vbmcCommand() *command.Command {
	var o vbmcOptions
	var faults []string
	for _, f := range vbmc.Faults() {
		faults = append(faults, string(f))
	}
	return &command.Command{
		Name:  "vbmc",
		Args:  "| vbmc fault SOCKET KIND...",
		Short: "be the BMC of a virtual machine",
		Long: `
Listens for IPMI 2.0 and controls a machine with it: power, boot device, serial over LAN, sensors, event
log. The machine is a domain of libvirt (--domain), which stays when this ends, or one that QEMU runs
as a YAML file describes it (--machine), which is switched off when this ends. It runs until it is
interrupted.

With --control it can be told to fail: 'imgpipe vbmc fault SOCKET KIND...' sets these faults and no others,
"none" sets none. Kinds: ` + strings.Join(faults, ", ") + `.

It is for rehearsals: whoever reaches its port and has the password has the machine.`,
		Example: `imgpipe vbmc --domain node1 --listen 127.0.0.1:6230 --user admin --password-file bmc.password --control node1.sock
imgpipe vbmc fault node1.sock silent`,
		Words: append([]string{"fault", "none"}, faults...),
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&o.domain, "domain", "", "control libvirt's domain of this `name`")
			fs.StringVar(&o.connect, "connect", "qemu:///system", "libvirt's `URI`")
			fs.StringVar(&o.machine, "machine", "", "run the machine that this YAML `file` describes")
			fs.StringVar(&o.listen, "listen", "127.0.0.1:623", "UDP `address` and port; port 0 chooses one")
			fs.StringVar(&o.user, "user", "admin", "the administrator's `name`")
			fs.StringVar(&o.password, "password-file", "", "read the administrator's password from `file`")
			fs.StringVar(&o.control, "control", "", "answer to 'vbmc fault' on this Unix `socket`")
			fs.StringVar(&o.serial, "serial", "", "offer the serial port at this TCP `address`, too, to one client at a time")
			fs.BoolVar(&o.js, "json", false, "print the state as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) > 0 && args[0] == "fault" {
				return o.fault(ctx, io, args[1:])
			}
			if len(args) > 0 {
				return command.Usage(fmt.Sprintf("vbmc takes no argument %q", args[0]), "see 'imgpipe vbmc --help'")
			}
			return o.serve(ctx, io)
		},
	}
}

// serve is the BMC until ctx ends.
func (o *vbmcOptions) serve(ctx context.Context, io command.IO) (err error) {
	if (o.domain == "") == (o.machine == "") {
		return command.Usage("vbmc needs a machine", "give --domain or --machine, not both")
	}
	secret, err := password(o.password)
	if err != nil {
		return err
	}
	m, release, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	b, err := vbmc.Start(ctx, vbmc.Config{Machine: m, Listen: o.listen, Users: []vbmc.User{{Name: o.user, Password: secret}}})
	if err != nil {
		return command.Hint(err, "ports below 1024 need root; see --listen")
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	if o.control != "" {
		l, err := controlSocket(o.control)
		if err != nil {
			return err
		}
		s := &http.Server{Handler: b.Handler()}
		defer s.Close()
		go func() { _ = s.Serve(l) }()
	}
	if o.serial != "" {
		port, ok := m.(testbed.Serial)
		if !ok {
			return command.Usage("vbmc: this machine has no serial port", "leave out --serial")
		}
		l, err := net.Listen("tcp", o.serial)
		if err != nil {
			return command.BadInput(err, "choose another --serial")
		}
		defer l.Close()
		go offerSerial(ctx, l, port)
	}
	if o.js {
		err = json.NewEncoder(io.Stdout).Encode(map[string]string{"machine": m.Name(), "addr": b.Addr()})
	} else {
		_, err = fmt.Fprintf(io.Stdout, "bmc of %s at %s\n", m.Name(), b.Addr())
	}
	if err != nil {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// offerSerial connects one client after the other with the serial port, until
// the listener is closed.
func offerSerial(ctx context.Context, l net.Listener, port testbed.Serial) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s, err := port.OpenSerial(ctx)
		if err != nil {
			_ = c.Close()
			continue
		}
		hangUp := func() { _ = c.Close(); _ = s.Close() }
		stop := context.AfterFunc(ctx, hangUp)
		go func() { defer hangUp(); _, _ = io.Copy(s, c) }()
		_, _ = io.Copy(c, s)
		hangUp()
		stop()
	}
}

// open returns the machine and what gives it back.
func (o *vbmcOptions) open(ctx context.Context) (testbed.Machine, func() error, error) {
	if o.machine != "" {
		c, err := loadMachine(o.machine)
		if err != nil {
			return nil, nil, err
		}
		m, err := qemu.New(ctx, c)
		if err != nil && command.Status(err) == command.StatusFailed {
			err = command.BadInput(fmt.Errorf("%s: %w", o.machine, err), `see docs/formats.md, "Machine file"`)
		}
		if err != nil {
			return nil, nil, err
		}
		return m, func() error { return m.Release(context.WithoutCancel(ctx)) }, nil
	}
	h, err := libvirt.Connect(ctx, o.connect)
	if err != nil {
		return nil, nil, err
	}
	m, err := h.Adopt(ctx, o.domain)
	if err != nil {
		return nil, nil, errors.Join(err, h.Close())
	}
	return m, func() error { return errors.Join(m.Release(context.WithoutCancel(ctx)), h.Close()) }, nil
}

// controlSocket listens on a Unix socket that only its owner may use. One that
// a killed process left is replaced.
func controlSocket(path string) (net.Listener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		_ = c.Close()
		return nil, command.Busy(fmt.Errorf("%s: another BMC answers there", path), "choose another --control")
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == os.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, command.BadInput(err, "a socket's path holds 107 bytes")
	}
	return l, errors.Join(os.Chmod(path, 0o600))
}

// fault tells a running BMC how to fail.
func (o *vbmcOptions) fault(ctx context.Context, out command.IO, args []string) error {
	if len(args) < 2 {
		return command.Usage("vbmc fault needs a socket and faults", "imgpipe vbmc fault node1.sock silent")
	}
	list := args[1:]
	if len(list) == 1 && list[0] == "none" {
		list = []string{}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", args[0])
	}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://vbmc/faults", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return command.BadInput(fmt.Errorf("%s: no BMC answers there: %w", args[0], rootCause(err)), "start one with 'imgpipe vbmc --control "+args[0]+"'")
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return command.Usage(strings.TrimSpace(string(answer)), "")
	}
	if o.js {
		_, err = out.Stdout.Write(answer)
		return err
	}
	var s vbmc.State
	if err := json.Unmarshal(answer, &s); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	fmt.Fprintf(out.Stdout, "%s: power %s, faults %v\n", s.Machine, s.Power, s.Faults)
	return nil
}

// rootCause is the innermost error.
func rootCause(err error) error {
	for next := err; next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err
}
