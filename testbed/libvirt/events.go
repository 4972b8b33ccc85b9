package libvirt

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// watcher tells waiters which machines have stopped or were reset. One lives as long as the
// connection: when a subscription ends before the connection does, an event
// that arrives at that moment blocks the library for ever.
type watcher struct {
	gone chan struct{} // closed when the connection has ended

	mu      sync.Mutex                  // guards waiting
	waiting map[chan struct{}]happening // who waits, and for what
}

// happening is what is waited for.
type happening struct {
	domain string
	reset  bool // otherwise its stop
}

func newWatcher(l *golibvirt.Libvirt) (*watcher, error) {
	events, err := l.LifecycleEvents(context.Background()) // ends with the connection
	if err != nil {
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	w := &watcher{gone: make(chan struct{}), waiting: map[chan struct{}]happening{}}
	resets, err := l.SubscribeEvents(context.Background(), golibvirt.DomainEventIDReboot, nil)
	if err != nil {
		return nil, fmt.Errorf("subscribe to events: %w", err)
	}
	go func() {
		for e := range resets {
			if r, ok := e.(*golibvirt.DomainEventCallbackRebootMsg); ok {
				w.notify(happening{r.Msg.Dom.Name, true})
			}
		}
	}()
	go func() {
		defer close(w.gone)
		for e := range events {
			if golibvirt.DomainEventType(e.Event) == golibvirt.DomainEventStopped {
				w.notify(happening{e.Dom.Name, false})
			}
		}
	}()
	return w, nil
}

func (w *watcher) notify(what happening) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c, h := range w.waiting {
		if h == what {
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
	return w.wait(happening{domain, false})
}

// resets is stops for resets, the guest's own and ours.
func (w *watcher) resets(domain string) (c chan struct{}, forget func()) {
	return w.wait(happening{domain, true})
}

func (w *watcher) wait(what happening) (c chan struct{}, forget func()) {
	c = make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[c] = what
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
