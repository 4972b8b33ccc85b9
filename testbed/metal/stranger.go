package metal

import (
	"context"
	"net"
	"time"

	"goldsmith/testbed/netboot"
)

// maxStrangers is how many events of machines that nobody knows may wait to be
// noted.
const maxStrangers = 64

// stranger has it noted what a machine does that nobody knows. Nothing waits for
// that, least of all those who are known: of too many at once some are passed
// over, until they do it again.
func (s *Site) stranger(e netboot.Event) {
	select {
	case s.strangers <- e:
	default:
	}
}

// complainEvery is how often people are told of a stranger who cannot be noted,
// or is refused something.
const complainEvery = time.Hour

// discover notes strangers until ctx ends. People see that they are there, and
// may declare them; until then they get no answer.
func (s *Site) discover(ctx context.Context) {
	told := map[bool]time.Time{} // by whether its card is known
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-s.strangers:
			mac, err := net.ParseMAC(e.MAC)
			known, what := err == nil, e.What
			if known {
				_, err = s.cfg.Inventory.Discover(ctx, mac, s.network.Name)
			}
			if err == nil || ctx.Err() != nil || time.Since(told[known]) < complainEvery {
				continue
			}
			if known {
				what = e.MAC + " is not noted: " + err.Error()
			}
			told[known] = time.Now()
			_ = s.cfg.Inventory.Note(ctx, "", "netboot", owner, what)
		}
	}
}
