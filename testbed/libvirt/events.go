package libvirt

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// watcher tells waiters which machines have stopped. One lives as long as the
// connection: when a subscription ends before the connection does, an event
// that arrives at that moment blocks the library for ever.
type watcher struct {
	gone chan struct{} // closed when the connection has ended

	mu      sync.Mutex               // guards waiting
	waiting map[chan struct{}]string // who waits, and for which domain
}

func newWatcher(l *golibvirt.Libvirt) (*watcher, error) {
	events, err := l.LifecycleEvents(context.Background()) // ends with the connection
	if err != nil {
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	w := &watcher{gone: make(chan struct{}), waiting: map[chan struct{}]string{}}
	go func() {
		defer close(w.gone)
		for e := range events {
			if golibvirt.DomainEventType(e.Event) == golibvirt.DomainEventStopped {
				w.notify(e.Dom.Name)
			}
		}
	}()
	return w, nil
}

func (w *watcher) notify(domain string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, name := range w.waiting {
		if name == domain {
			select {
			case c <- struct{}{}:
			default: // told already
			}
		}
	}
}

// stops returns a channel that is sent to when the domain stops, from now on
// until forget is called.
func (w *watcher) stops(domain string) (c chan struct{}, forget func()) {
	c = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[c] = domain
	return c, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.waiting, c)
	}
}

// callLimit bounds one call of libvirtd, which itself gives a stubborn QEMU 15
// seconds to end.
const callLimit = time.Minute

// limit bounds the calls until the timer is stopped: a libvirtd that does not
// answer loses the connection, and its callers get an error.
func (h *Host) limit() *time.Timer {
	return time.AfterFunc(callLimit, func() { _ = h.dialer.conn.Close() })
}

// dialer connects to a socket and remembers the connection.
type dialer struct {
	sock string
	conn net.Conn
}

// Dial implements the library's socket.Dialer.
func (d *dialer) Dial() (net.Conn, error) {
	var err error
	d.conn, err = net.DialTimeout("unix", d.sock, 5*time.Second)
	return d.conn, err
}
