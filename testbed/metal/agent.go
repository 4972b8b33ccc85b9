package metal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/netboot"
)

// agentLimit is how long a machine may take from power on until its agent
// calls: servers test their memory for minutes.
const agentLimit = 15 * time.Minute

// silenceLimit is how long an agent that works may say nothing.
const silenceLimit = 15 * time.Minute

// startAgent starts the machine into a deploy ramdisk, nil is the site's, with a
// task. done ends the agent's deployment.
func (n *Node) startAgent(ctx context.Context, task deploy.Task, ramdisk *Ramdisk, step func(deploy.Event)) (*Agent, func(), error) {
	if ramdisk == nil {
		ramdisk = &n.site.cfg.Ramdisk
	}
	if err := n.PowerOff(ctx); err != nil { // the lease is checked there, before anything is changed
		return nil, nil, err
	}
	log, err := n.agentLog()
	if err != nil {
		return nil, nil, err
	}
	dep, err := n.site.agents.Assign(n.Name(), task, deploy.Options{Log: log.lines, Event: func(e deploy.Event) {
		if step != nil {
			step(e)
		}
	}})
	if err != nil {
		return nil, nil, errors.Join(err, log.close())
	}
	a := &Agent{dep, n}
	n.site.noteAgent(n, dep)
	done := func() {
		n.site.override(n, nil)
		n.site.noteAgent(n, nil)
		_ = dep.Close()
		_ = log.close()
	}
	n.site.override(n, &netboot.Boot{Kernel: ramdisk.Kernel, Initrd: ramdisk.Initrd,
		// Without "quiet" the kernel prints its command line, and so the token.
		Cmdline: "quiet " + deploy.Arguments(n.site.URL()+"/deploy", dep.Token) + " BOOTIF=01-" + dashes(n.node.Spec.MACs[0]) + " " + n.site.cfg.Cmdline})
	if err := n.intoNetwork(ctx); err != nil {
		done()
		return nil, nil, err
	}
	return a, done, nil
}

// intoNetwork starts a machine that is off from the network: this time, or for
// good where it is to start its image from there, too.
func (n *Node) intoNetwork(ctx context.Context) error {
	wish := testbed.Boot{Device: testbed.FromNetwork, Once: n.node.Spec.Boot != inventory.BootNetwork, Firmware: n.node.Spec.Firmware}
	err := n.observe(ctx, n.SetBoot(ctx, wish))
	// A controller that drops the firmware's kind still chooses the device: the
	// machine has one kind only.
	if unsupported(err) {
		wish.Firmware = ""
		err = n.observe(ctx, n.SetBoot(ctx, wish))
	}
	if unsupported(err) && !wish.Once {
		n.site.tell(ctx, n.Name(), errors.New("its controller keeps no choice for good: its firmware must try the network first"))
		wish.Once = true
		err = n.observe(ctx, n.SetBoot(ctx, wish))
	}
	if err != nil {
		return err
	}
	return n.PowerOn(ctx)
}

func unsupported(err error) bool {
	f, ok := errors.AsType[*testbed.Fault](err)
	return ok && f.Kind == testbed.Unsupported
}

// Agent is the agent of a node that is being worked on.
type Agent struct {
	*deploy.Deployment
	node *Node
}

// work waits until the agent has done its task.
func (a *Agent) work(ctx context.Context) error {
	inv, err := a.Inventory(ctx)
	if err != nil {
		return err
	}
	if err := a.node.keepHardware(ctx, inv); err != nil {
		return err
	}
	r, err := a.wait(ctx)
	switch {
	case err != nil:
		return err
	case !r.OK():
		return &AgentError{a.node.Name(), r.Step, r.Error, r.Fault == deploy.ImageFault}
	}
	return nil
}

// Inventory waits until the agent calls, for agentLimit: then the error is a
// testbed.Fault.
func (a *Agent) Inventory(ctx context.Context) (*deploy.Inventory, error) {
	limited, cancel := context.WithTimeout(ctx, a.node.site.limits.agent)
	defer cancel()
	inv, err := a.Deployment.Inventory(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = a.silent("start the deploy ramdisk", fmt.Errorf("its agent has not called within %v", a.node.site.limits.agent))
	}
	return inv, err
}

func (a *Agent) silent(doing string, why error) error {
	return &testbed.Fault{Kind: testbed.Silent, Machine: a.node.Name(), Doing: doing,
		Err: fmt.Errorf("%w; its console is in %s", why, a.node.Console().Path)}
}

// wait waits for the task's result, as long as the agent goes on calling: an
// agent that works says how it goes.
func (a *Agent) wait(ctx context.Context) (*deploy.Result, error) {
	limit := a.node.site.limits.silence
	for {
		step, cancel := context.WithTimeout(ctx, limit/4)
		r, err := a.Wait(step)
		cancel()
		if err == nil || ctx.Err() != nil || step.Err() == nil {
			return r, err
		}
		s, err := a.Session()
		if err != nil {
			return nil, err
		}
		if d := time.Since(s.Seen); d > limit {
			return nil, a.silent("work on the disks", fmt.Errorf("its agent has not called for %v", limit))
		}
	}
}

func (n *Node) agentLog() (*agentLog, error) {
	dir, err := n.site.dir(n.Name())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "agent.log")
	if err := shorten(path, keptLog); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	return &agentLog{f: f, room: maxAgentLog}, err
}

// keptLog is how long a node's log is when a new one begins, in bytes; the one
// before is kept as NAME.1.
const keptLog = 16 << 20

// shorten has a log begin anew that is that long. Nobody may have it open.
func shorten(path string, most int64) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() < most {
		return nil
	}
	return errors.Join(err, os.Rename(path, path+".1"))
}

// AgentLog is the file with everything that the node's agents said.
func (n *Node) AgentLog() string {
	return filepath.Join(n.site.cfg.Dir, "nodes", n.Name(), "agent.log")
}

// maxAgentLog bounds what one agent can have logged, in bytes.
const maxAgentLog = 16 << 20

type agentLog struct {
	f *os.File

	mu   sync.Mutex // guards room
	room int
}

func (l *agentLog) lines(lines []deploy.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range lines {
		if l.room <= 0 {
			return
		}
		text := fmt.Sprintf("[%9.3f] %s\n", line.Uptime, command.Plain(line.Text))
		if l.room -= len(text); l.room <= 0 {
			text = "(it said more than is kept)\n"
		}
		_, _ = l.f.WriteString(text)
	}
}

func (l *agentLog) close() error { return l.f.Close() }
