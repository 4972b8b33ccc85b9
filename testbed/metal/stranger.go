package metal

import (
	"context"
	"net"
	"time"
)

// maxStrangers is how many machines that nobody knows may wait to be noted.
const maxStrangers = 64

// stranger has a machine noted that nobody knows. Nothing waits for that, least
// of all those who are known: of too many at once some are passed over, until
// they ask again.
func (s *Site) stranger(mac net.HardwareAddr) {
	select {
	case s.strangers <- mac:
	default:
	}
}

// complainEvery is how often people are told that a stranger cannot be noted.
const complainEvery = time.Hour

// discover notes strangers until ctx ends. People see that they are there, and
// may declare them; until then they get no answer.
func (s *Site) discover(ctx context.Context) {
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case mac := <-s.strangers:
			_, err := s.cfg.Inventory.Discover(ctx, mac, s.network.Name)
			if err != nil && ctx.Err() == nil && time.Since(told) > complainEvery {
				told = time.Now()
				_ = s.cfg.Inventory.Note(ctx, "", "netboot", owner, mac.String()+" is not noted: "+err.Error())
			}
		}
	}
}
