package step

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/gomodule/redigo/redis"
)

// ledger is which writes a machine has acknowledged, and when.
type ledger struct {
	mu    sync.Mutex // guards the fields below
	acks  []ack      // in order
	tried int
	last  error // of the latest write that failed
}

type ack struct {
	n  int // what was written
	at time.Time
}

func (l *ledger) ack(n int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acks, l.tried = append(l.acks, ack{n, at}), l.tried+1
}

func (l *ledger) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tried, l.last = l.tried+1, err
}

// all returns the acknowledged writes.
func (l *ledger) all() []ack {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks[:len(l.acks):len(l.acks)]
}

// await waits until a write of after that moment is acknowledged.
func (l *ledger) await(ctx context.Context, after time.Time) error {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for {
		l.mu.Lock()
		ok, last := len(l.acks) > 0 && l.acks[len(l.acks)-1].at.After(after), l.last
		l.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no write is acknowledged: %w", cmp.Or(last, context.Cause(ctx)))
		case <-tick.C:
		}
	}
}

// longestGap is the longest time without an acknowledged write between two
// moments: how long clients had to do without the service.
func longestGap(acks []ack, from, to time.Time) time.Duration {
	longest, last := time.Duration(0), from
	for _, a := range acks {
		if a.at.Before(from) || a.at.After(to) {
			continue
		}
		longest, last = max(longest, a.at.Sub(last)), a.at
	}
	return max(longest, to.Sub(last))
}

// lost are the acknowledged writes that are not there.
func lost(acks []ack, there func(n int) bool) []int {
	var gone []int
	for _, a := range acks {
		if !there(a.n) {
			gone = append(gone, a.n)
		}
	}
	return gone
}

// lostError says that acknowledged writes are lost, or nil.
func lostError(gone []int, of int) error {
	if len(gone) == 0 {
		return nil
	}
	return shown(fmt.Sprintf("%d of %d acknowledged writes are lost, the first is number %d", len(gone), of, gone[0]))
}

// Times of a load.
const (
	writeEvery = 50 * time.Millisecond // more is a burden to a machine that is emulated
	writeLimit = 5 * time.Second       // until a connection is given up
	loadLimit  = time.Minute           // until the first write is acknowledged
	readBatch  = 500
)

// redisLoad writes to a Redis server without a pause, and knows what the server
// has acknowledged.
type redisLoad struct {
	dial     func(context.Context) (net.Conn, error)
	password string
	prefix   string // of its keys
	ledger   ledger

	stop context.CancelFunc
	done chan struct{}
}

// start begins to write.
func (l *redisLoad) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	l.done = make(chan struct{})
	go func() {
		defer close(l.done)
		l.write(ctx)
	}()
}

// end stops writing and waits for that. It may be called twice.
func (l *redisLoad) end() {
	l.stop()
	<-l.done
}

func (l *redisLoad) write(ctx context.Context) {
	var c redis.Conn
	defer func() {
		if c != nil {
			_ = c.Close()
		}
	}()
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	for n := 1; ; n++ {
		var err error
		if c == nil {
			c, err = l.connect(ctx)
		}
		if err == nil {
			_, err = c.Do("SET", l.key(n), n)
		}
		switch {
		case err == nil:
			l.ledger.ack(n, time.Now())
		case ctx.Err() == nil:
			l.ledger.failed(err)
			if c != nil {
				_ = c.Close()
				c = nil
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *redisLoad) key(n int) string { return l.prefix + strconv.Itoa(n) }

func (l *redisLoad) connect(ctx context.Context) (redis.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, writeLimit)
	defer cancel()
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	c := redis.NewConn(conn, writeLimit, writeLimit)
	if l.password == "" {
		return c, nil
	}
	if _, err := c.Do("AUTH", l.password); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// lost reads all acknowledged writes back.
func (l *redisLoad) lost(ctx context.Context) ([]int, error) {
	c, err := l.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	acks, there := l.ledger.all(), map[int]bool{}
	for rest := acks; len(rest) > 0; {
		batch := rest[:min(readBatch, len(rest))]
		rest = rest[len(batch):]
		keys := make([]any, len(batch))
		for i, a := range batch {
			keys[i] = l.key(a.n)
		}
		values, err := redis.Strings(c.Do("MGET", keys...))
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			there[batch[i].n] = v == strconv.Itoa(batch[i].n)
		}
	}
	return lost(acks, func(n int) bool { return there[n] }), nil
}
