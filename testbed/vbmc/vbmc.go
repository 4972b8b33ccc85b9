// Package vbmc is a management controller (BMC) for machines that have none:
// IPMI 2.0 over RMCP+ in front of any [testbed.Machine], so that what deploys
// to metal can be rehearsed on virtual machines. ipmitool and package ipmi can
// use it.
//
// It does power, reset, cycle and the power button; boot flags with all their
// bits, where the machine is a [testbed.BootSelector]; serial over LAN, where it
// is a [testbed.Serial] (or [testbed.Consoled], then nobody can type); a few
// sensors, which are made up; and an event log of power. Protocol and sessions
// are go-ipmi's.
//
// It can also fail on demand, while it runs, in the ways that BMCs fail: see
// [Fault]. It is for tests, and no way to manage virtual machines: whoever
// reaches its port and has a password has the machine.
package vbmc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/clock"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"

	"goldsmith/testbed"
)

// Config describes a BMC. Machine and a user must be set.
type Config struct {
	// Machine is what is controlled. It stays the caller's: Close does not
	// release it.
	Machine testbed.Machine
	Listen  string // UDP address and port; "" means 127.0.0.1 and a free port
	Users   []User // at most 8
	// Network is where it listens; nil means testbed.Host.
	Network testbed.Network
	// Delay is what faults go by: how late a slow BMC answers and how long an
	// early off is wrong; 0 means two seconds.
	Delay time.Duration
}

// User may log in.
type User struct {
	Name     string // at most 16 bytes
	Password string // at most 20 bytes
	Operator bool   // may not use the console; otherwise an administrator
}

// BMC is a running controller. Its methods may be called from several
// goroutines.
type BMC struct {
	cfg     Config
	addr    *net.UDPAddr
	bmc     *bmc.BMC
	server  *server.Server
	chassis *chassis
	faults  *faults
	log     *eventLog

	stop  context.CancelFunc
	tasks tasks
	once  sync.Once
}

// sessions is how many logins there may be at a time. Real BMCs have four or
// so; clients of tests die without saying goodbye.
const sessions = 16

// Start listens and answers until Close.
func Start(ctx context.Context, c Config) (*BMC, error) {
	if c.Machine == nil || len(c.Users) == 0 {
		return nil, errors.New("vbmc: a machine and a user are needed")
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Network == nil {
		c.Network = testbed.Host{}
	}
	if c.Delay == 0 {
		c.Delay = 2 * time.Second
	}
	conn, err := listen(c.Network, c.Listen)
	if err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	b := &BMC{cfg: c, addr: conn.LocalAddr().(*net.UDPAddr), stop: stop, faults: newFaults(c.Delay), log: &eventLog{}}
	b.chassis = &chassis{machine: c.Machine, faults: b.faults, ctx: background, delay: c.Delay, tasks: &b.tasks}
	id := sha256.Sum256([]byte("goldsmith vbmc " + c.Machine.Name()))
	b.bmc = bmc.New(info, [16]byte(id[:]), &hardware{chassis: b.chassis, sensors: sensors(), console: consoleOf(c.Machine)},
		bmc.WithClock(clock.Real), bmc.WithV15Disabled())
	b.bmc.Sessions = bmc.NewSessionStoreWithOptions(clock.Real, bmc.WithMaxSessions(sessions))
	b.bmc.Sessions.SetOnRemove(b.bmc.SOL.DeactivateBySession)
	patientSOL(b.bmc.SOL.Config())
	if err := b.addUsers(); err != nil {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	b.faults.steal, b.faults.giveBack = b.stealConsole, b.giveConsoleBack
	b.server = server.NewServer(b.bmc, &faultyConn{UDPConn: conn, faults: b.faults, closed: background.Done()},
		server.WithHandlerRegistry(b.registry()))
	b.tasks.Go(func() { _ = b.server.Serve(background) })
	b.tasks.Go(func() { b.watch(background) })
	return b, nil
}

// info is what Get Device ID answers: a BMC with chassis, SEL, SDR and sensor
// devices (IPMI 2.0, table 20-2), of no manufacturer.
var info = bmc.DeviceInfo{DeviceID: 32, DeviceRevision: 1, FirmwareMajor: 1, IPMIVersion: 0x20, AdditionalDeviceSupport: 0x87}

func listen(n testbed.Network, addr string) (*net.UDPConn, error) {
	var conn *net.UDPConn
	err := n.Do(func() error {
		a, err := net.ResolveUDPAddr("udp", addr)
		if err != nil {
			return err
		}
		conn, err = net.ListenUDP("udp", a)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("vbmc: %w", err)
	}
	return conn, nil
}

// lan is the only channel.
const lan = 1

// addUsers fills the table of users. Its first is nobody's and disabled.
func (b *BMC) addUsers() error {
	if len(b.cfg.Users) > 8 {
		return errors.New("vbmc: more than 8 users")
	}
	for i, u := range b.cfg.Users {
		if u.Name == "" || len(u.Name) > bmc.MaxUserNameLen || len(u.Password) > bmc.MaxPasswordLen {
			return fmt.Errorf("vbmc: user %q: a name of 1 to 16 bytes and a password of at most 20 are needed", u.Name)
		}
		level := bmc.PrivilegeLevelAdministrator
		if u.Operator {
			level = bmc.PrivilegeLevelOperator
		}
		user, err := b.bmc.Users.Add(uint8(i+2), u.Name)
		if err != nil {
			return fmt.Errorf("vbmc: user %q: %w", u.Name, err)
		}
		user.SetPassword([]byte(u.Password))
		user.Enabled = true
		user.ChannelAccess[lan] = bmc.UserChannelAccess{MaxPrivilege: level, Enabled: true}
	}
	return b.bmc.Users.Update(1, func(u *bmc.User) error {
		u.Enabled = false
		return nil
	})
}

// registry is go-ipmi's commands and ours.
func (b *BMC) registry() *handlers.Registry {
	r := handlers.NewRegistry()
	handlers.RegisterAllHandlers(r)
	b.log.register(r)
	registerSensors(r, b.chassis)
	return r
}

// Addr is the address and port that it listens on.
func (b *BMC) Addr() string { return b.addr.String() }

// Sessions is how many logins there are. There is room for 16.
func (b *BMC) Sessions() int { return b.bmc.Sessions.Count() }

// Close stops answering. The machine is left as it is. It may be called twice.
func (b *BMC) Close() error {
	var err error
	b.once.Do(func() {
		b.stop()
		err = b.server.Close()
		b.tasks.end()
	})
	return err
}

// tasks are goroutines that Close waits for. None begins after that.
type tasks struct {
	mu    sync.Mutex // guards ended, and the group's Add
	ended bool
	group sync.WaitGroup
}

// Go runs f, unless it is too late.
func (t *tasks) Go(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.group.Go(f)
	}
}

func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.group.Wait()
}

// watch writes to the event log when the machine's power changes, whoever
// changed it.
func (b *BMC) watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := testbed.Unknown
	for {
		p, err := b.cfg.Machine.Power(ctx)
		if err == nil && p != last {
			if last != testbed.Unknown {
				b.log.power(p)
			}
			last = p
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

const watchEvery = 200 * time.Millisecond
