package step

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"

	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/internal/update"
	"goldsmith/testbed"
)

func TestLongestGap(t *testing.T) {
	t0 := time.Unix(1000, 0)
	at := func(seconds ...float64) []ack {
		var list []ack
		for i, s := range seconds {
			list = append(list, ack{i + 1, t0.Add(time.Duration(s * float64(time.Second)))})
		}
		return list
	}
	for _, tt := range []struct {
		name     string
		acks     []ack
		from, to float64
		want     time.Duration
	}{
		{"none", nil, 1, 4, 3 * time.Second},
		{"steady", at(0, 1, 2, 3), 0, 3, time.Second},
		{"gap in the middle", at(0, 1, 9, 10), 0, 10, 8 * time.Second},
		{"silent from the beginning", at(5, 6), 0, 6, 5 * time.Second},
		{"silent at the end", at(0, 1), 0, 8, 7 * time.Second},
		{"a gap of before does not count", at(0, 20, 21), 20, 21, time.Second},
		{"a gap that reaches over the end counts up to there", at(0, 1, 20), 0, 4, 3 * time.Second},
	} {
		if got := longestGap(tt.acks, t0.Add(time.Duration(tt.from*1e9)), t0.Add(time.Duration(tt.to*1e9))); got != tt.want {
			t.Errorf("%s: %s; want %s", tt.name, got, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	const want, before = "sha256:want", "sha256:before"
	good := machineapi.Signal{Status: "SUCCESS"}
	bad := func(why string) machineapi.Signal { return machineapi.Signal{Status: "FAILURE", Reason: why} }
	on := func(digest string, more func(*update.Status)) *update.Status {
		st := &update.Status{Boot: update.Boot{Slot: "b"}, Record: &update.Record{Slots: map[string]*update.Slot{"b": {Digest: digest}}}}
		if more != nil {
			more(st)
		}
		return st
	}
	failed := func(digest string) func(*update.Status) {
		return func(st *update.Status) { st.Record.Failed = []update.Failure{{Digest: digest, Reason: "it is unwell"}} }
	}
	trial := func(st *update.Status) { st.Trial, st.Record.Trial = true, &update.Trial{Slot: "b"} }
	armed := func(st *update.Status) { st.Waiting, st.Record.Trial = true, &update.Trial{Slot: "a"} }
	for name, tt := range map[string]struct {
		sig  machineapi.Signal
		st   *update.Status
		want verdict
		why  string
	}{
		"it runs and is kept":                        {good, on(want, nil), proved, ""},
		"it runs on trial":                           {good, on(want, trial), waiting, ""},
		"it runs on trial and is unwell":             {bad("x"), on(want, trial), waiting, ""},
		"it is kept and not configured":              {bad("no disk"), on(want, nil), unwell, "no disk"},
		"that is about the image before":             {bad(before + " failed on this machine"), on(want, failed(before)), waiting, ""},
		"the image before still runs":                {good, on(before, nil), waiting, ""},
		"the image before is about to restart":       {bad("x"), on(before, armed), waiting, ""},
		"it is refused":                              {bad("no signature"), on(before, nil), refused, "no signature"},
		"it returned and says so":                    {bad(want + " failed on this machine"), on(before, failed(want)), returned, "it is unwell"},
		"it returned; the trial's signal comes late": {bad("health check"), on(before, failed(want)), waiting, ""},
		"another image failed earlier":               {good, on(before, failed("sha256:other")), waiting, ""},
		"nothing is known about the slot":            {good, &update.Status{Record: &update.Record{}}, waiting, ""},
	} {
		if v, why := judge(want, tt.sig, tt.st); v != tt.want || why != tt.why {
			t.Errorf("%s: %q, %q; want %q, %q", name, v, why, tt.want, tt.why)
		}
	}
}

// The load notices what a server does that forgets, and one that is away.
func TestRedisLoad(t *testing.T) {
	server := miniredis.RunT(t)
	server.RequireAuth("secret")
	var d net.Dialer
	addr := server.Addr()
	l := &redisLoad{password: "secret", prefix: "k:",
		dial: func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }}
	ctx := t.Context()
	l.start(ctx)
	if err := l.begins(ctx); err != nil {
		t.Fatal(err)
	}
	server.Close() // acknowledged writes stay
	away := time.Now()
	time.Sleep(100 * time.Millisecond)
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := l.ledger.await(ctx, time.Now()); err != nil {
		t.Fatal(err)
	}
	s := &subject{}
	if err := l.account(ctx, s, "update", away); err != nil {
		t.Error(err)
	}
	l.end()
	figures := map[string]float64{}
	for _, m := range s.figures {
		figures[m.Name] = m.Value
	}
	if figures["update-downtime"] < 0.1 || figures["update-writes"] < 2 || figures["update-lost-writes"] != 0 {
		t.Errorf("figures: %v", figures)
	}
	if l.ledger.tried <= len(l.ledger.acks) {
		t.Errorf("of %d writes none failed", l.ledger.tried)
	}
	acks := l.ledger.all()
	server.DB(0).Del(l.key(acks[0].n))
	_ = server.DB(0).Set(l.key(acks[1].n), "0")
	if gone, err := l.lost(ctx); err != nil || !slices.Equal(gone, []int{acks[0].n, acks[1].n}) {
		t.Errorf("lost: %v, %v", gone, err)
	}
	if err := lostError([]int{1, 2}, 9); err == nil || err.Error() != "2 of 9 acknowledged writes are lost, the first is number 1" {
		t.Errorf("lost writes: %v", err)
	}
	l.password = "wrong"
	if _, err := l.lost(ctx); err == nil {
		t.Error("a wrong password reads writes back")
	}
}

// part tells the image's failures from the testbed's.
func TestPart(t *testing.T) {
	s := &subject{job: job(t, ""), suite: "x"}
	run := func(ctx context.Context, err error) error {
		return s.part(ctx, "p", func(context.Context) error { return err })
	}
	if err := run(t.Context(), nil); err != nil || s.tests[0].Result != evidence.Pass {
		t.Errorf("a good part: %v, %+v", err, s.tests)
	}
	if err := run(t.Context(), shown("it burns")); err != errFailed || s.tests[1].Class != evidence.ImageFault || s.tests[1].Reason != "it burns" {
		t.Errorf("a bad part: %v, %+v", err, s.tests)
	}
	fault := &testbed.Fault{Kind: testbed.Silent, Machine: "m", Doing: "power on", Err: errors.New("no answer")}
	if err := run(t.Context(), fault); !errors.Is(err, fault) || len(s.tests) != 2 {
		t.Errorf("a fault: %v, %+v", err, s.tests)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, context.Canceled); !errors.Is(err, context.Canceled) || len(s.tests) != 2 {
		t.Errorf("an interruption: %v, %+v", err, s.tests)
	}
	late, cancel := context.WithTimeoutCause(t.Context(), 0, errors.New("too late"))
	defer cancel()
	<-late.Done()
	if err := run(late, context.Cause(late)); err != errFailed || s.tests[2].Reason != "too late" {
		t.Errorf("a late part: %v, %+v", err, s.tests)
	}
	tests, err := s.inParts(t.Context(), func(context.Context) error { return errFailed })
	if err != nil || evidence.Judge(tests) != evidence.Fail {
		t.Errorf("a suite with a bad part: %v", err)
	}
}

// The moments of power cuts are the seed's, by turns in a start and under load,
// and within bounds.
func TestCuts(t *testing.T) {
	a, b := cuts(7, 20), cuts(8, 20)
	if !slices.Equal(a, cuts(7, 20)) || slices.Equal(a, b) {
		t.Error("the moments are not the seed's")
	}
	for i, c := range a {
		if c.booting != (i%2 == 1) || c.of(time.Minute) < 0 || c.of(time.Minute) >= time.Minute {
			t.Errorf("cut %d: %+v", i, c)
		}
	}
}

// shellFunc is a machine's shell of which Run alone is used.
type shellFunc struct {
	testbed.Shell
	run func(context.Context, testbed.Command) error
}

func (f shellFunc) Run(ctx context.Context, c testbed.Command) error { return f.run(ctx, c) }

// Numbers that are acknowledged before the power goes count, what it cut off
// does not; the next load goes on after them.
func TestDiskLoad(t *testing.T) {
	var lines []string
	power := make(chan struct{}, 2)
	w := &diskLoad{shell: shellFunc{run: func(ctx context.Context, c testbed.Command) error {
		lines = append(lines, c.Line)
		_, _ = c.Stdout.Write([]byte("1\n2\n3"))
		<-power
		return &testbed.UnreachableError{Addr: "m", Err: errors.New("gone")}
	}}}
	cutOff := func(context.Context) error { power <- struct{}{}; return nil }
	for range 2 {
		if err := w.during(t.Context(), cutOff); err != nil {
			t.Fatal(err)
		}
	}
	if len(w.ledger.all()) != 4 || !strings.Contains(lines[0], "\ni=1\n") || !strings.Contains(lines[1], "\ni=3\n") {
		t.Errorf("acknowledged: %v; %q", w.ledger.all(), lines)
	}
	w.shell = shellFunc{run: func(_ context.Context, c testbed.Command) error {
		_, _ = c.Stdout.Write([]byte("9\n"))
		return &testbed.RemoteError{Command: "sh", Status: 1, Stderr: "no space"}
	}}
	if err := w.during(t.Context(), func(context.Context) error { return nil }); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("a disk that is full: %v", err)
	}
	if gone := lost(w.ledger.all(), func(n int) bool { return n != 2 }); !slices.Equal(gone, []int{2, 2}) {
		t.Errorf("lost: %v", gone)
	}
}

func TestAfterReset(t *testing.T) {
	before := identity{"m1", "r1", "a"}
	for want, after := range map[string]identity{
		"": {"m2", "r1", "a"},
		"the machine has the SSH host key of before":                          {"m1", "r1", "a"},
		"the machine runs root r2 in slot b; before the reset it was r1 in a": {"m2", "r2", "b"},
	} {
		got := ""
		if err := before.forgotten(after); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%+v: %q; want %q", after, got, want)
		}
	}
	if grown(1024, 1) != nil || grown(1025, 1) == nil || median([]float64{9, 1, 2}) != 2 || median([]float64{4, 1}) != 2.5 {
		t.Error("growth or median is wrong")
	}
}
