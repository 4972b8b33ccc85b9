package metal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// Sites are the sites that this process serves, each once, for all who use it.
// It is safe for several goroutines; the zero value serves none yet.
type Sites struct {
	mu       sync.Mutex // guards the fields below
	open     map[string]*shared
	reserved map[string]bool // networks that only a lasting use opens; "" is all
}

// Reserve says that a network is served as long as the process runs, or as soon as
// it can be: uses that are not lasting do not open its site, and are told to wait
// until it is there. "" means every network.
func (s *Sites) Reserve(network string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reserved == nil {
		s.reserved = map[string]bool{}
	}
	s.reserved[network] = true
}

// shared is a site that several use.
type shared struct {
	turn      chan struct{} // has room for whoever opens or closes it
	users     int           // guarded by Sites.mu
	site      *Site         // the fields below belong to who has the turn; nil: it is not open
	namespace string
	stop      context.CancelFunc
	keeper    sync.WaitGroup
	where     func() error // closes the namespace
}

// Use is a site that somebody uses. The caller closes it.
type Use struct {
	*Site
	close func() error
}

// Close says that the site is not needed any more; with its last user it ends.
func (u *Use) Close() error { return u.close() }

// Use opens a site, or gives the one of that network that is open already: its
// ramdisk is the first user's then, and its namespace and command line must be
// what is asked for, or not asked for. namespace is the file of the network
// namespace that the servers are reached from; empty means Config.Where. As long
// as it is used a keeper looks after its nodes. When another process serves the
// network the error has command.StatusBusy, and is ErrLasting where waiting does
// not help.
func (s *Sites) Use(ctx context.Context, c Config, namespace string) (*Use, error) {
	network, err := c.Inventory.Network(ctx, c.Network)
	if err != nil {
		return nil, err
	}
	c.Network = network.Name
	sh, may := s.join(c.Network)
	if err := sh.enter(ctx, c, namespace, may || c.Lasting); err != nil {
		return nil, errors.Join(err, s.leave(c.Network, sh))
	}
	return &Use{sh.site, sync.OnceValue(func() error { return s.leave(c.Network, sh) })}, nil
}

// join adds a user, and tells whether anybody may open the site.
func (s *Sites) join(network string) (sh *shared, may bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh = s.open[network]; sh == nil {
		sh = &shared{turn: make(chan struct{}, 1)}
		if s.open == nil {
			s.open = map[string]*shared{}
		}
		s.open[network] = sh
	}
	sh.users++
	return sh, !s.reserved[network] && !s.reserved[""]
}

// leave ends the site when nobody uses it any more.
func (s *Sites) leave(network string, sh *shared) error {
	if !s.without(sh, 1) {
		return nil
	}
	sh.turn <- struct{}{}
	defer func() { <-sh.turn }()
	var err error
	if s.without(sh, 0) && sh.site != nil { // nobody came meanwhile
		err = sh.end()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh.users == 0 && s.open[network] == sh { // who came while it ended opens it anew
		delete(s.open, network)
	}
	return err
}

// without takes users away, and tells whether none is left.
func (s *Sites) without(sh *shared, users int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.users -= users
	return sh.users == 0
}

// enter opens the site, unless it is open, or may not be opened.
func (sh *shared) enter(ctx context.Context, c Config, namespace string, may bool) error {
	select {
	case sh.turn <- struct{}{}:
		defer func() { <-sh.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case sh.site == nil && may:
		return sh.begin(ctx, c, namespace)
	case sh.site == nil:
		return command.Busy(fmt.Errorf("network %s is not served yet", c.Network), "the log of 'imgpipe serve' says why")
	}
	other := func(what, asked, is string) error {
		return command.BadInput(fmt.Errorf("network %s is served with the %s %q; %q is asked for", c.Network, what, is, asked),
			"leave it out, or say the same everywhere")
	}
	switch {
	case namespace != "" && !sameFile(namespace, sh.namespace):
		return other("namespace", namespace, sh.namespace)
	case c.Cmdline != "" && c.Cmdline != sh.site.cfg.Cmdline:
		return other("cmdline", c.Cmdline, sh.site.cfg.Cmdline)
	}
	return nil
}

// sameFile tells whether two paths lead to one file.
func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

func (sh *shared) begin(ctx context.Context, c Config, namespace string) (err error) {
	where := func() error { return nil }
	if namespace != "" {
		ns, err := testbed.NamespaceAt(namespace)
		if err != nil {
			return err
		}
		c.Where, where = ns, ns.Close
	}
	site, err := Open(ctx, c)
	if err != nil {
		return errors.Join(err, where())
	}
	k := site.NewKeeper()
	if err := k.Survey(ctx); err != nil { // what was observed long ago says nothing
		return errors.Join(err, site.Close(), where())
	}
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	sh.site, sh.namespace, sh.stop, sh.where = site, namespace, stop, where
	sh.keeper.Go(func() { k.Run(keep) })
	return nil
}

func (sh *shared) end() error {
	sh.stop()
	sh.keeper.Wait()
	err := errors.Join(sh.site.Close(), sh.where())
	sh.site = nil
	return err
}
