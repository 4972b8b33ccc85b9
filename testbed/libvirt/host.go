// Package libvirt makes virtual machines through libvirtd.
//
// [Connect] uses a libvirtd that is there, the system's for example. [StartBed]
// starts a private one in namespaces of its own, for tests and for trying
// things out: nothing of it is left on the host, however the process ends.
// Either gives a [Host]; [Host.Define] makes a [Machine] from a disk image,
// which is only read.
//
// A machine belongs to the process that defined it. What a killed process
// leaves on a system's libvirtd is found by [Host.Sweep]: every machine carries
// the path of a lock file that its owner holds.
package libvirt

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"sync"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// DefaultURI is the system's libvirtd.
const DefaultURI = "qemu:///system"

const installHint = "install libvirt-daemon-system, qemu-system-x86, qemu-utils, dnsmasq-base and ovmf"

// Host is a libvirtd on which machines can be made. It is safe for several
// goroutines.
type Host struct {
	// Network is from where the machines are reached.
	Network testbed.Network

	l       *golibvirt.Libvirt
	dialer  *dialer
	watcher *watcher
	uri     string
	owner   *owner
	network string // the libvirt network that machines are in by default
	// addresses are handed out to machines; nil when the network's own DHCP
	// server decides.
	addresses *pool
}

// Connect connects to a libvirtd on this host: "qemu:///system", or
// "qemu+unix:///system?socket=PATH". Empty means DefaultURI. When no libvirtd
// answers, the error is a command.Missing one. Machines are put into the
// network "default" unless their Config says otherwise. The caller closes the
// Host.
func Connect(ctx context.Context, uri string) (*Host, error) {
	if uri == "" {
		uri = DefaultURI
	}
	socks, err := sockets(uri)
	if err != nil {
		return nil, err
	}
	var h *Host
	for _, s := range socks {
		if h, err = connect(s, uri); err == nil {
			break
		}
	}
	if err != nil {
		return nil, command.Missing(fmt.Errorf("libvirt %s: %w", uri, err),
			"start libvirtd ('systemctl start libvirtd'), or install it: "+installHint)
	}
	h.network, h.Network = "default", testbed.Host{}
	if h.owner, err = newOwner("/tmp", "goldsmith-host"); err != nil {
		h.disconnect()
		return nil, fmt.Errorf("libvirt %s: %w", uri, err)
	}
	if err := h.Sweep(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// sockets are where the libvirtd of a URI may listen, the likeliest first.
func sockets(uri string) ([]string, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, command.Usage(fmt.Sprintf("libvirt URI %q: %v", uri, err), "use "+DefaultURI)
	}
	local := u.Host == "" && u.Path == "/system"
	sock := u.Query().Get("socket")
	switch {
	case local && u.Scheme == "qemu" && sock == "":
		return []string{"/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"}, nil
	case local && u.Scheme == "qemu+unix" && sock != "":
		return []string{sock}, nil
	}
	return nil, command.Usage(fmt.Sprintf("libvirt URI %q: not supported", uri), "use "+DefaultURI+" or qemu+unix:///system?socket=PATH")
}

func connect(sock, uri string) (*Host, error) {
	if _, err := os.Stat(sock); err != nil {
		return nil, errors.New("no libvirtd is running: " + sock + " is not there")
	}
	h := &Host{uri: uri, dialer: &dialer{sock: sock}}
	h.l = golibvirt.NewWithDialer(h.dialer)
	if err := h.l.ConnectToURI(golibvirt.QEMUSystem); err != nil {
		var op *net.OpError
		if errors.As(err, &op) {
			return nil, fmt.Errorf("no libvirtd is running: %w", err)
		}
		return nil, err
	}
	var err error
	if h.watcher, err = newWatcher(h.l); err != nil {
		_ = h.l.Disconnect()
		return nil, err
	}
	return h, nil
}

// disconnect may be called twice.
func (h *Host) disconnect() {
	defer h.limit().Stop()
	if h.l.IsConnected() {
		_ = h.l.Disconnect() // fails only when it is gone already
	}
	<-h.watcher.gone
}

// Close ends the connection. Machines that were not released stay; the next
// Sweep removes them.
func (h *Host) Close() error {
	h.disconnect()
	return h.owner.remove()
}

// lease is a machine's place in the network.
type lease struct {
	ip  netip.Addr // invalid when the network's DHCP server decides
	mac string
}

// Addresses of a bed's machines: 10.78.0.N.
const (
	firstAddress = 10
	lastAddress  = 249
)

func address(n int) lease {
	return lease{netip.AddrFrom4([4]byte{10, 78, 0, byte(n)}), fmt.Sprintf("52:54:00:78:00:%02x", n)}
}

// pool hands out addresses, the least recently used first.
type pool struct {
	mu   sync.Mutex // guards free
	free []int
}

func newPool() *pool {
	p := &pool{}
	for n := firstAddress; n <= lastAddress; n++ {
		p.free = append(p.free, n)
	}
	return p
}

func (p *pool) take() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		return 0, command.Busy(errors.New("all addresses of the bed are in use"), "release machines")
	}
	n := p.free[0]
	p.free = p.free[1:]
	return n, nil
}

func (p *pool) give(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, n)
}
