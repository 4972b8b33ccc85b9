package ipmi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
	"goldsmith/testbed/testbedtest"
)

// chassisScript is what ipmi_sim asks for power and boot device
// ("chassis_control" of its configuration): it hands the question to the test. A
// program that takes longer would have clients ask again, and be run again.
const chassisScript = `#!/bin/bash
exec 3<>/dev/tcp/127.0.0.1/%d
echo "$*" >&3
answer=$(cat <&3)
echo "$answer"
[[ $answer != error* ]]
`

// simulated is a machine behind ipmi_sim: it takes the simulator and the guest
// along when it is released.
type simulated struct {
	*Machine
	guest *qemu.Machine
	end   context.CancelFunc // of the simulator
	tasks sync.WaitGroup
	ends  []io.Closer
}

// simPassword is short: the simulator has room for 15 bytes.
const simPassword = "secret"

const simCommands = `mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sel_enable 0x20 200 0x0a
sensor_add 0x20 0 1 0x01 0x01
main_sdr_add 0x20 0x00 0x00 0x51 0x01 0x31 0x20 0x00 0x01 0x03 0x01 0x67 0x88 0x01 0x01 0xc0 0x0f 0xc0 0x7f 0x38 0x38 0x00 ` +
	`0x01 0x00 0x00 0x01 0x00 0x00 0x00 0x00 0x00 0x03 0x60 0xb0 0x00 0xb0 0x00 0xa0 0x90 0x70 0x00 0x00 0x00 0x00 0x00 0x00 ` +
	`0x00 0x00 0xc6 0x44 0x4a 0x74 0x65 0x6d 0x70
sensor_set_value 0x20 0 1 0x60 0
sensor_set_event_support 0x20 0 1 enable scanning per-state 000111111000000 000111111000000 000111111000000 000111111000000
mc_enable 0x20
`

// simulate starts ipmi_sim before a QEMU guest, and opens it.
func simulate(ctx context.Context, spec testbedtest.Spec) (*simulated, error) {
	guest, err := guest(ctx, spec)
	if err != nil {
		return nil, err
	}
	s := &simulated{guest: guest}
	if err := s.start(ctx, spec.Name, filepath.Join(spec.Dir, "bmc")); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

func (s *simulated) start(ctx context.Context, name, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	serial, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.ends = append(s.ends, control, serial)
	s.tasks.Go(func() { s.serve(control, s.chassis) })
	s.tasks.Go(func() { s.serve(serial, s.wire) })
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	port := udp.LocalAddr().(*net.UDPAddr).Port
	_ = udp.Close()
	script := filepath.Join(dir, "chassis")
	text, err := os.ReadFile("testdata/ipmi_sim.conf")
	if err != nil {
		return err
	}
	conf := strings.NewReplacer("@PORT@", fmt.Sprint(port), "@CHASSIS@", script, "@PASSWORD@", simPassword,
		"@SERIAL@", fmt.Sprint(serial.Addr().(*net.TCPAddr).Port)).Replace(string(text))
	if err := errors.Join(os.WriteFile(script, fmt.Appendf(nil, chassisScript, control.Addr().(*net.TCPAddr).Port), 0o700),
		os.WriteFile(filepath.Join(dir, "lan.conf"), []byte(conf), 0o600),
		os.WriteFile(filepath.Join(dir, "emu"), []byte(simCommands), 0o600)); err != nil {
		return err
	}
	sim := command.Exec{Args: []string{"ipmi_sim", "-n", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "emu"),
		"-s", filepath.Join(dir, "state")}, Grace: 100 * time.Millisecond}
	running, end := context.WithCancel(context.Background())
	s.end = end
	s.tasks.Go(func() { _ = sim.Run(running) }) // dies with us
	for end := time.Now().Add(simStart); ; {    // until it listens
		s.Machine, err = Open(ctx, Config{Name: name, Addr: fmt.Sprint("127.0.0.1:", port), User: user, Password: simPassword,
			Console: filepath.Join(dir, "sol.log"), Adjust: func(q *Quirks) { quick(q); q.CipherSuites = []int{17, 3} }})
		if kindOf(err) == testbed.Silent && time.Now().After(end) {
			return fmt.Errorf("ipmi_sim does not listen; it says nothing about errors in its files with -n: %w", err)
		}
		if kindOf(err) != testbed.Silent || !strings.Contains(err.Error(), "nothing listens") {
			return err
		}
		if !pause(ctx, 20*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

const simStart = 20 * time.Second

// Release implements testbed.Machine.
func (s *simulated) Release(ctx context.Context) error {
	return errors.Join(s.Machine.Release(ctx), s.stop())
}

func (s *simulated) stop() error {
	if s.end != nil {
		s.end()
	}
	err := s.guest.Release(context.Background())
	for _, c := range s.ends {
		_ = c.Close()
	}
	s.tasks.Wait()
	return err
}

func (s *simulated) serve(l net.Listener, f func(net.Conn)) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		s.tasks.Go(func() {
			defer c.Close()
			f(c)
		})
	}
}

// wire is the guest's serial line, over all its starts.
func (s *simulated) wire(c net.Conn) {
	port, err := s.guest.OpenSerial(context.Background())
	if err != nil {
		return
	}
	defer port.Close()
	s.tasks.Go(func() {
		_, _ = io.Copy(port, c)
		_ = port.Close()
	})
	_, _ = io.Copy(c, port)
}

// devices are the simulator's names of what to start from.
var devices = map[string]testbed.Device{"pxe": testbed.FromNetwork, "default": testbed.FromDisk, "cdrom": testbed.FromCD, "none": ""}

// chassis answers one question of the simulator.
func (s *simulated) chassis(c net.Conn) {
	line, err := bufio.NewReader(c).ReadString('\n')
	args := strings.Fields(line)
	if err != nil || len(args) < 2 {
		return
	}
	ctx := context.Background()
	for args[0] == "get" && len(args) > 1 {
		switch args[1] {
		case "power":
			p, _ := s.guest.Power(ctx)
			fmt.Fprintf(c, "power:%d\n", map[bool]int{true: 1}[p == testbed.On])
		case "boot":
			b, _ := s.guest.BootOrder(ctx)
			for name, d := range devices {
				if d == b.Device {
					fmt.Fprintf(c, "boot:%s\n", name)
				}
			}
		}
		args = append(args[:1], args[2:]...)
	}
	for args[0] == "set" && len(args) > 2 {
		if err := s.change(ctx, args[1], args[2]); err != nil {
			fmt.Fprintf(c, "error: %v\n", err)
		}
		args = append(args[:1], args[3:]...)
	}
}

func (s *simulated) change(ctx context.Context, what, to string) error {
	switch {
	case what == "power" && to == "1":
		return s.guest.PowerOn(ctx)
	case what == "power":
		return s.guest.PowerOff(ctx)
	case what == "reset":
		return s.guest.Reset(ctx)
	case what == "shutdown":
		s.tasks.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			_ = s.guest.Shutdown(ctx)
		})
		return nil
	case what == "boot":
		d, ok := devices[to]
		if !ok {
			return fmt.Errorf("boot %s: unknown", to)
		}
		return s.guest.SetBoot(ctx, testbed.Boot{Device: d, Once: true})
	}
	return nil
}

// TestSimulator holds the driver to the suite behind Debian's ipmi_sim.
func TestSimulator(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "ipmi_sim", "qemu-system-x86_64", "qemu-img")
	testbedtest.Run(t, testbedtest.Driver{NewWith: func(ctx context.Context, spec testbedtest.Spec) (testbed.Machine, error) {
		m, err := simulate(ctx, spec)
		if err != nil {
			return nil, err
		}
		return m, nil
	}})
}

// TestSimulatorBoot: the simulator keeps one start's device and nothing else,
// which the table of quirks knows.
func TestSimulatorBoot(t *testing.T) {
	t.Parallel()
	testenv.Need(t, "ipmi_sim", "qemu-system-x86_64", "qemu-img")
	dir := t.TempDir()
	image := filepath.Join(dir, "image")
	if err := os.WriteFile(image, testbedtest.Guest{Text: "hello"}.BIOSDisk(), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := simulate(t.Context(), testbedtest.Spec{Name: "boot", Dir: filepath.Join(dir, "m"), Disks: []string{image}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Release(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	ctx := bounded(t)
	once := testbed.Boot{Device: testbed.FromNetwork, Once: true}
	for _, b := range []testbed.Boot{once, {}, {Device: testbed.FromDisk, Once: true}, once} {
		if err := m.SetBoot(ctx, b); err != nil {
			t.Errorf("SetBoot(%+v): %v", b, err)
		}
		if got, err := m.BootOrder(ctx); got != b || err != nil {
			t.Errorf("BootOrder = %+v, %v; want %+v", got, err, b)
		}
	}
	want(t, ctx, m.SetBoot(ctx, testbed.Boot{Device: testbed.FromNetwork}), testbed.Unsupported, "one start only")
	if err := m.PowerOn(ctx); err != nil {
		t.Fatal(err)
	}
	if got, err := m.BootOrder(ctx); got != (testbed.Boot{}) || err != nil {
		t.Errorf("BootOrder after the one start = %+v, %v", got, err)
	}
	sensors, err := m.Sensors(ctx)
	if err != nil || len(sensors) != 1 || sensors[0].Name != "DJtemp" || sensors[0].State != "ok" {
		t.Errorf("Sensors = %+v, %v", sensors, err)
	}
	if e, err := m.HardwareEvents(ctx); err != nil {
		t.Errorf("HardwareEvents = %v, %v", e, err)
	}
}
