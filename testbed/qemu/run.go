package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/testbed"
)

// run is a machine from power-on until it is off: one process of QEMU after
// another.
type run struct {
	ctx  context.Context // ends when the power is cut
	cut  context.CancelFunc
	done chan struct{} // closed when the machine is off
	err  error         // how QEMU failed; set before done is closed

	mu   sync.Mutex // guards last
	last *process
}

func newRun() *run {
	r := &run{done: make(chan struct{})}
	r.ctx, r.cut = context.WithCancel(context.Background())
	return r
}

// running is false for nil.
func (r *run) running() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.done:
		return false
	default:
		return true
	}
}

func (r *run) process() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

// commandLimit bounds a command of ours, which QEMU answers at once.
const commandLimit = 10 * time.Second

func (r *run) command(ctx context.Context, name string) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	return r.process().monitor.run(ctx, name, nil)
}

// process is one process of QEMU.
type process struct {
	monitor  *monitor
	agent    *testbed.AgentConn
	replaced chan struct{} // closed when the next one has started
	done     chan struct{} // closed when it has ended, and its connections with it
	err      error         // how it ended; set before done is closed
	kill     context.CancelFunc
}

// supervise starts QEMU again where the machine was reset.
func (m *Machine) supervise(r *run, p *process) {
	defer close(r.done)
	defer r.cut()
	for {
		<-p.done
		reason := p.monitor.reason()
		switch {
		case r.ctx.Err() != nil: // cut off
			return
		case reason == "guest-reset" || reason == "host-qmp-system-reset":
		case p.err != nil || reason == "":
			r.err = fmt.Errorf("qemu ended by itself: %w%s", errors.Join(p.err, errNoReason(reason)), m.log())
			return
		default: // the guest switched off
			return
		}
		next, err := m.launch(r)
		if err != nil {
			if r.ctx.Err() == nil {
				r.err = fmt.Errorf("start again after a reset: %w", err)
			}
			return
		}
		close(p.replaced)
		p = next
	}
}

func errNoReason(reason string) error {
	if reason == "" {
		return errors.New("the machine did not switch off")
	}
	return nil
}

// startLimit bounds the start of a process until it obeys; it needs 0.1 s.
const startLimit = 30 * time.Second

// launch starts QEMU with the boot order that holds now.
func (m *Machine) launch(r *run) (*process, error) {
	first, started := m.bootNow()
	var ours, theirs []*os.File
	defer func() { closeAll(theirs) }()
	for range 3 { // monitorFD, serialFD, agentFD
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			closeAll(ours)
			return nil, err
		}
		ours = append(ours, os.NewFile(uintptr(pair[0]), "ours"))
		theirs = append(theirs, os.NewFile(uintptr(pair[1]), "theirs"))
	}
	conns, err := connections(ours)
	if err != nil {
		return nil, err
	}
	p := &process{replaced: make(chan struct{}), done: make(chan struct{})}
	m.mu.Lock()
	port := m.sshPort
	m.mu.Unlock()
	if err := m.exec(r.ctx, p, m.args(first, port), theirs, conns); err != nil {
		return nil, err
	}
	closeAll(theirs)
	theirs = nil
	r.mu.Lock()
	r.last = p
	r.mu.Unlock()
	if err := m.begin(r.ctx, p); err != nil {
		return nil, fmt.Errorf("start qemu: %w%s", p.fail(err), m.log())
	}
	started()
	return p, nil
}

// fail ends a process that did not start as it should, and returns how it
// ended where that says more than err.
func (p *process) fail(err error) error {
	if errors.Is(err, errGone) { // it closed the connection: it is about to end
		select {
		case <-p.done:
		case <-time.After(2 * time.Second):
		}
	}
	select {
	case <-p.done:
		if p.err != nil {
			err = p.err
		}
	default:
	}
	p.kill()
	<-p.done
	return err
}

// connections makes connections of sockets, which it closes.
func connections(files []*os.File) ([]net.Conn, error) {
	defer closeAll(files)
	var conns []net.Conn
	for _, f := range files {
		c, err := net.FileConn(f)
		if err != nil {
			for _, c := range conns {
				_ = c.Close()
			}
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// exec starts the process, in the machine's network, and sees to it until it
// has ended. conns are ours from then on; on failure they are closed.
func (m *Machine) exec(ctx context.Context, p *process, args []string, files []*os.File, conns []net.Conn) error {
	closeConns := func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}
	log, err := os.Create(m.file(logName))
	if err != nil {
		closeConns()
		return err
	}
	defer log.Close()
	ctx, p.kill = context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) // killed when the power is cut
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, files
	// QEMU does not outlive us. The kernel ties that to the thread that starts
	// it, so the thread stays and waits. An interrupt typed at our terminal
	// is ours.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	begun := make(chan error, 1)
	go func() {
		defer close(p.done)
		defer p.kill()
		err := m.cfg.Network.Do(func() error {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			if err := cmd.Start(); err != nil {
				return err
			}
			p.monitor = monitorOn(conns[0])
			p.agent = testbed.NewAgentConn(conns[2])
			unplugged := make(chan struct{})
			go func() {
				defer close(unplugged)
				m.serial.plug(conns[1])
			}()
			begun <- nil
			p.err = cmd.Wait()
			<-p.monitor.gone
			<-unplugged
			return p.agent.Close()
		})
		if p.monitor == nil { // not started
			closeConns()
			begun <- err
		}
	}()
	return <-begun
}

// begin lets the halted machine go.
func (m *Machine) begin(ctx context.Context, p *process) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	if _, err := p.monitor.run(ctx, "qmp_capabilities", nil); err != nil {
		return err
	}
	if slices.ContainsFunc(m.cfg.NICs, func(n NIC) bool { return n.SSH }) {
		if err := m.learnPort(ctx, p.monitor); err != nil {
			return err
		}
	}
	_, err := p.monitor.run(ctx, "cont", nil)
	return err
}

// forwarded is a line of QEMU's "info usernet":
//
//	TCP[HOST_FORWARD]  14       127.0.0.1 40001       10.0.2.15    22     0     0
var forwarded = regexp.MustCompile(`TCP\[HOST_FORWARD\] +\d+ +127\.0\.0\.1 +(\d+) +\S+ +22 `)

// learnPort asks for the port that leads to port 22.
func (m *Machine) learnPort(ctx context.Context, mon *monitor) error {
	b, err := mon.run(ctx, "human-monitor-command", map[string]string{"command-line": "info usernet"})
	if err != nil {
		return err
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	f := forwarded.FindStringSubmatch(text)
	if f == nil {
		return fmt.Errorf("no forwarded port in %q", text)
	}
	port, err := strconv.ParseUint(f[1], 10, 16)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.sshPort = int(port)
	m.mu.Unlock()
	return nil
}

// log is the end of what QEMU said, for an error.
func (m *Machine) log() string {
	text, _ := os.ReadFile(m.file(logName))
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	out := ""
	for _, l := range lines[max(0, len(lines)-8):] {
		if l != "" {
			out += "\n    " + l
		}
	}
	return out
}
