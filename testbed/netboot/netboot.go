// Package netboot starts machines from the network: DHCP, TFTP, HTTP and
// router advertisements in one server, for firmware of the BIOS and the UEFI
// kind.
//
// It answers only machines that [Config.Lookup] knows, by the hardware address
// of the card that they start from, and is silent to all others: a server that
// stands on the wrong network does no harm there. What is asked for by TFTP and
// HTTP is given to the addresses of those machines, and refused to others. Nor does it say anything that
// nobody asked for. Each machine is told its own
// address and what to start: a kernel, or its own disk.
//
// The way is the same for all: the firmware gets iPXE (https://ipxe.org) by
// TFTP, or by HTTP where it can, and iPXE gets a script, kernel and initramfs
// by HTTP. A card whose ROM is iPXE already, as QEMU's are, goes straight to
// the script. Formats: RFC 2131 and 2132 (DHCP), RFC 4578 (what the firmware
// is), RFC 3004 (user class), RFC 1350, 2347 to 2349 (TFTP), RFC 4861 (router
// advertisements), and for HTTP boot the UEFI specification 2.10, section 24.7.
package netboot

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Machine is what a machine is told that starts from the network.
type Machine struct {
	// Name is its host name.
	Name string
	// Address is its IPv4 address, in the server's network.
	Address netip.Addr
	// Boot is what it starts; nil means its own disk.
	Boot *Boot
}

// Boot is a kernel with its initramfs, as files of this host, and the kernel's
// command line. What is secret in it only the machine gets to see, as far as
// the network keeps it.
type Boot struct {
	Kernel, Initrd string
	Cmdline        string
}

// Config says where to serve. Interface, Address, Lookup and At must be set.
type Config struct {
	// Interface is the network device that machines are on. Nothing is
	// answered on others.
	Interface string
	// Address is ours on it, with the network's length: 10.77.0.1/24.
	Address netip.Prefix
	// Prefix6 is the IPv6 network there, of length 64; it is advertised, and
	// machines make their addresses in it. The zero value means that there is
	// none: iPXE then waits for ten seconds for one.
	Prefix6 netip.Prefix
	// Lookup finds a machine by the card that it starts from. It is called for
	// every packet and request, from several goroutines, and must not wait.
	Lookup func(mac net.HardwareAddr) (Machine, bool)
	// At tells which machine has an address, of those that Lookup finds. It is
	// called as Lookup is.
	At func(netip.Addr) (name string, ok bool)
	// Port is where HTTP is served; 0 means DefaultPort.
	Port int
	// Handler gets the HTTP requests for everything that is not ours, such as
	// what a deploy ramdisk asks; nil means there is nothing else.
	Handler http.Handler
	// Secret makes the addresses under which machines get their files. A server
	// that is started anew serves what began before when it has the same;
	// nil means a random one.
	Secret []byte
	// Loaders is the directory with iPXE's undionly.kpxe and snponly.efi; ""
	// means where Debian's package ipxe has them.
	Loaders string
	// Network is where the interface is; nil means the host's.
	Network testbed.Network
	// Event is told what goes on, one call at a time; nil means nobody is.
	Event func(Event)
}

// DefaultPort of HTTP.
const DefaultPort = 8080

const defaultLoaders = "/usr/lib/ipxe"

// Event is something that a machine did.
type Event struct {
	MAC     string // "" where only its address is known
	Machine string // its name; "" for one that nobody knows
	What    string // in words
}

// Server serves until it is closed.
type Server struct {
	cfg      Config
	loaders  map[string][]byte // by name: few, and small
	http     *http.Server
	dhcp     *server4.Server
	tftp     *tftp.Server
	tftpConn *net.UDPConn
	ra       *advertiser
	wg       sync.WaitGroup

	events sync.Mutex // held while Event is called; guards recent
	recent map[Event]time.Time
}

// Names of iPXE's programs.
const (
	biosLoader = "undionly.kpxe"
	uefiLoader = "snponly.efi"
)

// maxLoader bounds iPXE's programs, in bytes.
const maxLoader = 4 << 20

// Allowed says whether this process may serve: it needs the capabilities
// CAP_NET_BIND_SERVICE and CAP_NET_RAW (capabilities(7)), which root has.
func Allowed() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	const needed = 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_RAW
	if have[0].Effective&needed != needed {
		return command.Missing(errors.New("DHCP, TFTP and pings need the capabilities CAP_NET_BIND_SERVICE and CAP_NET_RAW"), "run as root, or as the packaged unit does")
	}
	return nil
}

// Start begins to serve. It needs what Allowed looks for. The caller closes the
// server.
func Start(ctx context.Context, c Config) (*Server, error) {
	s := &Server{cfg: c, recent: map[Event]time.Time{}}
	if err := s.configure(); err != nil {
		return nil, err
	}
	if err := s.listen(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("netboot on %s: %w", c.Interface, err), s.Close())
	}
	return s, nil
}

func (s *Server) configure() error {
	c := &s.cfg
	switch {
	case c.Interface == "" || c.Lookup == nil || c.At == nil:
		return errors.New("netboot: interface and both lookups must be given")
	case !c.Address.IsValid() || !c.Address.Addr().Is4():
		return command.Usage(fmt.Sprintf("netboot: address %v: not an IPv4 address with the length of its network", c.Address), "such as 10.77.0.1/24")
	case c.Prefix6.IsValid() && (c.Prefix6.Addr().Is4() || c.Prefix6.Bits() != 64):
		return command.Usage(fmt.Sprintf("netboot: IPv6 network %v: its length must be 64", c.Prefix6), "such as fd12:3456:789a:1::/64")
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.Network == nil {
		c.Network = testbed.Host{}
	}
	if c.Loaders == "" {
		c.Loaders = defaultLoaders
	}
	if c.Secret == nil {
		c.Secret = make([]byte, 32)
		_, _ = rand.Read(c.Secret) // it never fails: crypto/rand
	}
	s.loaders = map[string][]byte{}
	for _, name := range []string{biosLoader, uefiLoader} {
		b, err := os.ReadFile(filepath.Join(c.Loaders, name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return command.Missing(fmt.Errorf("netboot: %s is not in %s", name, c.Loaders), "install ipxe")
		case err != nil:
			return fmt.Errorf("netboot: %w", err)
		case len(b) > maxLoader:
			return command.BadInput(fmt.Errorf("%s: %d bytes are too many for a boot loader", filepath.Join(c.Loaders, name), len(b)), "")
		}
		s.loaders[name] = b
	}
	return nil
}

// listen opens all sockets where the machines are, and serves them.
func (s *Server) listen(ctx context.Context) error {
	c := s.cfg
	l, err := c.Network.Listen(ctx, "tcp4", netip.AddrPortFrom(c.Address.Addr(), uint16(c.Port)).String())
	if err != nil {
		return err
	}
	s.http = s.httpServer()
	s.serve(func() error { return s.http.Serve(l) })
	err = c.Network.Do(func() error {
		var err error
		if s.dhcp, err = server4.NewServer(c.Interface, &net.UDPAddr{Port: 67}, s.handleDHCP); err != nil {
			return fmt.Errorf("DHCP: %w", err)
		}
		// A socket for both families does not serve: IPv4 is asked for.
		if s.tftpConn, err = net.ListenUDP("udp4", &net.UDPAddr{IP: c.Address.Addr().AsSlice(), Port: 69}); err != nil {
			return fmt.Errorf("TFTP: %w", err)
		}
		if c.Prefix6.IsValid() {
			s.ra, err = advertise(c.Interface, c.Prefix6, c.Network, s.advertised)
		}
		return err
	})
	if s.dhcp != nil {
		s.serve(s.dhcp.Serve)
	}
	if s.tftpConn != nil {
		s.tftp = s.tftpServer()
		s.serve(func() error { return s.tftp.Serve(s.tftpConn) })
	}
	if s.ra != nil {
		s.serve(s.ra.serve)
	}
	return err
}

// advertised says whether a machine that looks for routers gets an answer.
func (s *Server) advertised(mac net.HardwareAddr) bool {
	_, ok := s.cfg.Lookup(mac)
	return ok
}

// serve runs a server; it ends with an error when its socket is closed.
func (s *Server) serve(f func() error) {
	s.wg.Go(func() { _ = f() })
}

// Close ends the server; transfers that go on are cut.
func (s *Server) Close() error {
	var errs []error
	if s.http != nil {
		errs = append(errs, s.http.Close())
	}
	if s.dhcp != nil {
		errs = append(errs, s.dhcp.Close())
	}
	if s.tftp != nil {
		s.tftp.Shutdown()
		errs = append(errs, s.tftpConn.Close())
	}
	if s.ra != nil {
		errs = append(errs, s.ra.close())
	}
	s.wg.Wait()
	return errors.Join(errs...)
}

// URL is where machines find the server by HTTP, without a slash at the end.
func (s *Server) URL() string { return s.cfg.URL() }

// URL is where machines will find a server of this configuration by HTTP,
// without a slash at the end.
func (c Config) URL() string {
	return "http://" + netip.AddrPortFrom(c.Address.Addr(), uint16(cmp.Or(c.Port, DefaultPort))).String()
}

// key names a machine's files in URLs: nobody who does not hold the secret
// can make it.
func (s *Server) key(mac net.HardwareAddr) string {
	h := hmac.New(sha256.New, s.cfg.Secret)
	h.Write(mac)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Limits of what is remembered: any number of machines may knock, and any
// number of times.
const (
	maxRecent  = 1024
	eventPause = time.Minute
)

// event tells what a machine does; the same again within a minute is not told,
// nor what more machines do than can be remembered.
func (s *Server) event(mac net.HardwareAddr, name, format string, args ...any) {
	if s.cfg.Event == nil {
		return
	}
	e := Event{MAC: mac.String(), Machine: name, What: fmt.Sprintf(format, args...)}
	s.events.Lock()
	defer s.events.Unlock()
	now := time.Now()
	if last, ok := s.recent[e]; ok && now.Sub(last) < eventPause {
		return
	}
	maps.DeleteFunc(s.recent, func(_ Event, last time.Time) bool { return now.Sub(last) >= eventPause })
	if len(s.recent) >= maxRecent {
		return
	}
	s.recent[e] = now
	s.cfg.Event(e)
}
