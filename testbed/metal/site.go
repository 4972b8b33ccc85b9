// Package metal has servers run an image: it leases them from the inventory,
// holds their power through their management controllers, starts them from the
// network, has their agent write the image, and takes them back.
//
// A [Site] is one network with its servers and what serves them: netboot, the
// deploy agents' server, and what installed machines ask. [Site.Acquire] gives a
// [Node], which is a testbed.Machine. What goes wrong with a server is a
// testbed.Fault, and never the image's.
package metal

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/deploy"
	"goldsmith/internal/filelock"
	"goldsmith/internal/machineapi"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/ipmi"
	"goldsmith/testbed/netboot"
)

// Config says what a site is made of. Inventory, Dir, Ramdisk and Images must be
// set.
type Config struct {
	Inventory *inventory.Inventory
	// Network is the inventory's name of the network; "" is the only one.
	Network string
	// Where is where the network and the controllers are reached from; nil means
	// the host's.
	Where testbed.Network
	// Dir has a directory for each node, with console.log and agent.log, and
	// what nodes start from the network. One process at a time serves a network
	// there.
	Dir string
	// Ramdisk is the deploy ramdisk, unless a deployment names another.
	Ramdisk
	// Lasting: the process serves the network as long as it runs, and not for a
	// stage; it tells others so.
	Lasting bool
	// Cmdline is added to the ramdisk's and to an image's kernel command line,
	// for consoles.
	Cmdline string
	// Images is the directory of the OCI layout that images are deployed from.
	Images string
	// Event is told what machines do on the network, one call at a time.
	Event func(netboot.Event)
	// Notify is a program with its arguments that is run for everything that
	// people should know of: a Notice, JSON, is on its standard input. It is killed
	// after half a minute. Nil means that there is none.
	Notify []string
}

// Ramdisk is a kernel and the RAM disk that deploys machines, as files of this
// host.
type Ramdisk struct{ Kernel, Initrd string }

// RamdiskAt is the ramdisk that imgbuild wrote: path.vmlinuz and path.initrd.
func RamdiskAt(path string) Ramdisk { return Ramdisk{path + ".vmlinuz", path + ".initrd"} }

// Check says whether it is there.
func (r Ramdisk) Check() error {
	if r == (Ramdisk{}) {
		return command.BadInput(errors.New("no deploy ramdisk is named"), "with.ramdisk of the stage, or ramdisk of the server's site, says where imgbuild wrote it")
	}
	for _, f := range []string{r.Kernel, r.Initrd} {
		if _, err := os.Stat(f); err != nil {
			return command.BadInput(fmt.Errorf("deploy ramdisk: %w", err), "'imgbuild build' makes it of an image with the output deploy-ramdisk")
		}
	}
	return nil
}

// Site is a network with its servers. It is safe for several goroutines.
type Site struct {
	cfg     Config
	network inventory.Network
	lock    *os.File
	boot    *netboot.Server
	agents  *deploy.Server
	api     *machineapi.Server

	limits limits
	adjust func(*ipmi.Quirks) // of tests; nil
	power  turns              // by node: who may change its power

	strangers chan netboot.Event // of machines that nobody knows, to be noted
	stop      context.CancelFunc // ends what notes them
	wg        sync.WaitGroup
	refresh   turns // of the network: who reads its nodes, so that what is known grows no older

	mu    sync.Mutex                 // guards the fields below
	known map[string]netboot.Machine // by MAC
	lives map[netip.Addr]string      // by address: the name of one that is known
	held  map[string]*holding
	told  map[string]string        // by node: why it cannot be served
	calls map[netip.Addr]time.Time // when an installed machine called last
	left  map[string][]uint32      // by node: sessions of a process that is gone, with its controller
}

// limits are how long things may take.
type limits struct {
	agent   time.Duration // from power on until the agent calls
	silence time.Duration // of an agent that works
	look    time.Duration // between two looks of a keeper
	again   time.Duration // until a node is inspected again that could not be
	notify  time.Duration // for the program that tells people
	ping    time.Duration // for a machine to answer
}

// holding is a node that is in use by this process.
type holding struct {
	node   *Node
	boot   *netboot.Boot          // what it starts instead of what it would; nil: nothing
	agent  *deploy.Deployment     // that works on it; nil: none
	health *inventory.Observation // what it said last; nil: nothing
}

// Open serves a site. It needs root. The caller closes it.
func Open(ctx context.Context, c Config) (*Site, error) {
	if c.Where == nil {
		c.Where = testbed.Host{}
	}
	if err := c.Check(); err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Site{cfg: c, agents: deploy.NewServer(nil), strangers: make(chan netboot.Event, maxStrangers), stop: stop,
		limits: limits{agentLimit, silenceLimit, observeEvery, inspectAgain, notifyLimit, pingLimit}, known: map[string]netboot.Machine{}, held: map[string]*holding{},
		told: map[string]string{}, calls: map[netip.Addr]time.Time{}}
	s.wg.Go(func() { s.discover(background) })
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Site) open(ctx context.Context) error {
	c := s.cfg
	if err := os.MkdirAll(c.Dir, 0o750); err != nil {
		return err
	}
	var err error
	if s.network, err = c.Inventory.Network(ctx, c.Network); err != nil {
		return err
	}
	if s.network.Interface == "" {
		return command.BadInput(fmt.Errorf("network %s: imgpipe serves nothing there", s.network.Name), "give it interface and server in the inventory file")
	}
	if err := s.take(); err != nil {
		return err
	}
	// The lock says that whoever had a node is gone; not of other machines, whose
	// leases end when nobody prolongs them.
	if !c.Inventory.Shared() {
		if err := c.Inventory.Abandon(ctx, s.network.Name, owner, "the process that had it has ended"); err != nil {
			return err
		}
	}
	if err := errors.Join(s.Refresh(ctx), s.sweep(ctx), s.findLeft(ctx)); err != nil {
		return err
	}
	boot := netboot.Config{
		Interface: s.network.Interface, Address: netip.PrefixFrom(s.network.Server, s.network.IPv4.Bits()), Prefix6: s.network.IPv6,
		Lookup: s.lookup, At: s.at, Secret: s.network.Secret, Network: c.Where, Event: s.event,
	}
	s.api = machineapi.New(boot.URL(), c.Images)
	s.api.Refused = s.refused
	mux := http.NewServeMux()
	mux.Handle("/deploy/", http.StripPrefix("/deploy", s.agents))
	mux.Handle("/", s.heard(s.api))
	boot.Handler = mux
	s.boot, err = netboot.Start(ctx, boot)
	return err
}

// ErrLasting says that another process serves the network as long as it runs:
// waiting does not help.
var ErrLasting = errors.New("another process serves it as long as it runs")

// lasting is what is in the lock's file then.
const lasting = "lasting\n"

// take makes this process the one that serves the network.
func (s *Site) take() (err error) {
	path := filepath.Join(s.cfg.Dir, "lock-"+s.network.Name)
	s.lock, err = filelock.Try(path, filelock.Exclusive)
	switch {
	case errors.Is(err, filelock.ErrLocked):
		if text, _ := os.ReadFile(path); string(text) == lasting {
			return command.Busy(fmt.Errorf("network %s: %w", s.network.Name, ErrLasting), "give the run to that: imgpipe run --server URL")
		}
		return command.Busy(fmt.Errorf("network %s: another process serves it", s.network.Name), "wait for it, or end it")
	case err != nil:
		return err
	}
	if err := s.lock.Truncate(0); err != nil || !s.cfg.Lasting {
		return err
	}
	_, err = s.lock.WriteString(lasting)
	return err
}

// API is what installed machines ask and tell.
func (s *Site) API() *machineapi.Server { return s.api }

// Network is the network's name in the inventory.
func (s *Site) Network() string { return s.network.Name }

// Where is where the network is reached from.
func (s *Site) Where() testbed.Network { return s.cfg.Where }

// URL is where machines find the site, without a slash at the end.
func (s *Site) URL() string { return s.boot.URL() }

// Close ends the service. Nodes keep their power.
func (s *Site) Close() error {
	var errs []error
	if s.boot != nil {
		errs = append(errs, s.boot.Close())
	}
	s.stop()
	s.wg.Wait()
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

func (s *Site) event(e netboot.Event) {
	if s.cfg.Event != nil {
		s.cfg.Event(e)
	}
	if e.Machine == "" {
		s.stranger(e)
		return
	}
	// It is only for the history; what it means is observed elsewhere.
	_ = s.cfg.Inventory.Note(context.Background(), e.Machine, "netboot", "network", e.What)
}

// lookup answers netboot.
func (s *Site) lookup(mac net.HardwareAddr) (netboot.Machine, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.known[mac.String()]
	if h := s.held[m.Name]; ok && h != nil && h.boot != nil {
		m.Boot = h.boot
	}
	return m, ok
}

// at answers netboot, too.
func (s *Site) at(a netip.Addr) (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name, ok = s.lives[a]
	return name, ok
}

// Refresh reads the nodes anew: what the inventory file says by now, and what
// those start that have no disk of their own to start from.
func (s *Site) Refresh(ctx context.Context) error {
	done, err := s.refresh.take(ctx, s.network.Name)
	if err != nil {
		return err
	}
	defer done()
	nodes, err := s.cfg.Inventory.Nodes(ctx)
	if err != nil {
		return err
	}
	known, lives := map[string]netboot.Machine{}, map[netip.Addr]string{}
	for _, n := range nodes {
		if n.Spec.Network != s.network.Name || !n.Declared {
			continue
		}
		a, err := s.cfg.Inventory.Addresses(ctx, n.Name)
		if err != nil {
			s.tell(ctx, n.Name, err)
			continue // the others are served all the same
		}
		m := netboot.Machine{Name: n.Name, Address: a.IPv4}
		if n.Spec.Boot == inventory.BootNetwork && n.Image != "" {
			m.Boot, err = s.imageBoot(ctx, n.Image)
			s.tell(ctx, n.Name, err)
			if err != nil { // the others are served all the same, and it can be cleaned
				m.Boot = nil
			}
		}
		lives[m.Address] = m.Name
		for _, mac := range n.Spec.MACs {
			known[mac] = m
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known, s.lives = known, lives
	return nil
}

// dir is a node's directory.
func (s *Site) dir(node string) (string, error) {
	dir := filepath.Join(s.cfg.Dir, "nodes", node)
	return dir, os.MkdirAll(dir, 0o750)
}

// machine logs in to a node's controller; record says whether its console is
// recorded, which only one session of a controller can do.
func (s *Site) machine(ctx context.Context, n *inventory.Node, record bool) (*ipmi.Machine, error) {
	password, err := ipmi.ReadPassword(n.Spec.BMC.PasswordFile)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", n.Name, err)
	}
	dir, err := s.dir(n.Name)
	if err != nil {
		return nil, err
	}
	c := ipmi.Config{Name: n.Name, Addr: n.Spec.BMC.Address, User: n.Spec.BMC.User, Password: password,
		Firmware: n.Spec.Firmware, Network: s.cfg.Where, Adjust: s.adjust, Sessions: filepath.Join(dir, sessionsDir)}
	if file := n.Spec.BMC.QuirksFile; file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, command.BadInput(fmt.Errorf("node %s: %w", n.Name, err), "")
		}
		if c.Adjust, err = ipmi.ParseQuirks(file, text); err != nil {
			return nil, fmt.Errorf("node %s: %w", n.Name, err)
		}
	}
	if record {
		c.Console = filepath.Join(dir, "console.log")
		if err := shorten(c.Console, keptLog); err != nil {
			return nil, err
		}
	}
	m, err := ipmi.Open(ctx, c)
	if err == nil {
		s.endLeft(ctx, n.Name, m)
	}
	return m, err
}
