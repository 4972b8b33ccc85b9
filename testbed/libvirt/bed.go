package libvirt

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Bed is a private libvirtd with a network of its own, in namespaces that
// have no name on the host: no other process sees its machines, bridges and
// mounts, and nothing in it can send to the outside. When the process that
// started the bed ends, even by SIGKILL, the kernel ends everything in it.
//
// The bed's gateway, where the process can listen for its machines, is
// Gateway.
type Bed struct {
	*Host
	owner *owner
	net   *testbed.Namespace
	proc  *bedProcess
}

// Gateway is the address of the bed's own side of its network, /24. Machines
// have the addresses 10.78.0.10 to 10.78.0.249.
var Gateway = netip.AddrFrom4([4]byte{10, 78, 0, 1})

const (
	bedPrefix = "goldsmith-bed"
	// startLimit bounds the start of libvirtd, which needs one second.
	startLimit = 30 * time.Second
	// maxSocketPath is what a unix socket address holds.
	maxSocketPath = 107
)

// StartBed starts a bed. It needs root, libvirtd and dnsmasq; without them the
// error is a command.Missing one. The program must call Init first thing. The
// caller closes the bed.
func StartBed(ctx context.Context) (*Bed, error) {
	if err := CheckBed(); err != nil {
		return nil, err
	}
	o, err := newOwner(bedBase(), bedPrefix)
	if err != nil {
		return nil, fmt.Errorf("private libvirtd: %w", err)
	}
	b := &Bed{owner: o}
	if err := b.start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("private libvirtd: %w", err), b.Close())
	}
	return b, nil
}

// CheckBed says whether this machine has what StartBed needs, without starting
// anything.
func CheckBed() error {
	if os.Geteuid() != 0 {
		return command.Missing(errors.New("private libvirtd: needs root"), "run as root, or use the system's libvirtd: qemu:///system")
	}
	for _, p := range []string{"libvirtd", "qemu-system-x86_64", "dnsmasq", "qemu-img"} {
		if _, err := exec.LookPath(p); err != nil {
			return command.Missing(fmt.Errorf("private libvirtd: %s is not installed", p), installHint)
		}
	}
	return nil
}

// bedBase is where beds keep their directories: the path of a socket in them
// must be short.
func bedBase() string {
	if d := os.Getenv("XDG_RUNTIME_DIR"); d != "" && len(d) < 40 {
		if fi, err := os.Stat(d); err == nil && fi.IsDir() {
			return d
		}
	}
	return "/tmp"
}

func (b *Bed) start(ctx context.Context) error {
	sock := filepath.Join(b.owner.dir, "run", "libvirt-sock")
	if len(sock) > maxSocketPath {
		return fmt.Errorf("%s: too long for a socket", sock)
	}
	var err error
	if b.proc, err = startBedProcess(b.owner); err != nil {
		return err
	}
	if b.net, err = testbed.OpenNamespace(b.proc.pid); err != nil {
		return err
	}
	h, err := b.await(ctx, sock)
	if err != nil {
		return err
	}
	b.Host = h
	h.owner, h.network, h.Network = b.owner, bedNetwork, b.net
	h.addresses = newPool()
	if _, err := h.l.NetworkCreateXML(bedNetworkXML()); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

// await connects to libvirtd as soon as it answers.
func (b *Bed) await(ctx context.Context, sock string) (*Host, error) {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if c, err := net.Dial("unix", sock); err == nil {
			_ = c.Close()
			h, err := connect(sock, "qemu+unix:///system?socket="+sock)
			if err != nil { // it ends when one of its parts cannot start
				select {
				case <-b.proc.done:
				case <-time.After(time.Second):
				}
				err = fmt.Errorf("libvirtd does not work: %w%s", err, b.log())
			}
			return h, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("libvirtd does not answer: %w%s", context.Cause(ctx), b.log())
		case <-b.proc.done:
			return nil, fmt.Errorf("libvirtd did not start%s", b.log())
		case <-tick.C:
		}
	}
}

// log is the end of what the bed's processes said, for an error.
func (b *Bed) log() string {
	var out strings.Builder
	for _, name := range []string{"out.log", "libvirtd.log"} {
		text, _ := os.ReadFile(filepath.Join(b.owner.dir, name))
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		for _, l := range lines[max(0, len(lines)-8):] {
			if l != "" {
				out.WriteString("\n    " + l)
			}
		}
	}
	return out.String()
}

// URI is by which other programs reach the bed's libvirtd, while it lives.
func (b *Bed) URI() string { return b.Host.uri }

// Close ends everything in the bed and removes its directory. Machines need
// not be released first. It may be called twice.
func (b *Bed) Close() error {
	var errs []error
	if b.Host != nil {
		b.Host.disconnect()
	}
	if b.proc != nil {
		b.proc.stop()
	}
	if b.net != nil {
		errs = append(errs, b.net.Close())
	}
	return errors.Join(append(errs, b.owner.remove())...)
}

// bedProcess is the first process of a bed.
type bedProcess struct {
	pid   int
	stdin io.Closer
	done  chan struct{} // closed when it has ended
}

// startBedProcess starts this program again in new namespaces, see Init. The
// kernel kills it when the thread that started it ends; that thread belongs to
// a goroutine that waits for it.
func startBedProcess(o *owner) (*bedProcess, error) {
	out, err := os.Create(filepath.Join(o.dir, "out.log"))
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{bedArg0, o.dir}, Dir: "/",
		Env:    []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"},
		Stdout: out, Stderr: out,
		ExtraFiles: []*os.File{o.lock}, // bedLockFD
		SysProcAttr: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
			Pdeathsig:  syscall.SIGKILL,
			Setsid:     true, // an interrupt typed at our terminal is ours
		},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p := &bedProcess{stdin: stdin, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("make namespaces: %w", errors.Join(err, stdin.Close()))
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// stop ends the process, and with it the namespaces' other processes.
func (p *bedProcess) stop() {
	_ = p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.done
	}
}

const bedNetwork = "goldsmith"

// bedNetworkXML is the bed's network. Forward mode "open" makes no firewall
// rules; there is nowhere to forward to. Every address has a fixed hardware
// address. The range spans them all, because its length is also how many
// leases there may be, fixed ones included.
func bedNetworkXML() string {
	type host struct {
		MAC string `xml:"mac,attr"`
		IP  string `xml:"ip,attr"`
	}
	var hosts []host
	for n := firstAddress; n <= lastAddress; n++ {
		a := address(n)
		hosts = append(hosts, host{a.mac, a.ip.String()})
	}
	list, _ := xml.Marshal(hosts) // two plain strings cannot fail
	return fmt.Sprintf(`<network><name>%s</name><forward mode='open'/><bridge name='gsbr0' stp='off' delay='0'/>
<ip address='%s' netmask='255.255.255.0'><dhcp><range start='10.78.0.%d' end='10.78.0.254'/>%s</dhcp></ip></network>`,
		bedNetwork, Gateway, firstAddress, list)
}
