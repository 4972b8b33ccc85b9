package collectcfg

import (
	"context"
	"math/rand/v2"
	"time"
)

// Notifier is a source that says when to ask it again.
type Notifier interface {
	// Notify calls wake whenever the source may have changed, also once when
	// it has begun to look, until the context ends. It returns early, with an
	// error, when it cannot tell: the source is then polled. wake may be
	// called from one goroutine only.
	Notify(ctx context.Context, wake func()) error
}

// Poll collects again and again until the context ends, as os-collect-config
// does: the pause starts at Min and doubles up to Max, and never starts anew.
// An error is logged; the next poll tries again.
func (r *Runner) Poll(ctx context.Context) error {
	for pause := r.Min; ; pause = min(2*pause, r.Max) {
		ran, err := r.Once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.Say("%v; trying again in %s", err, pause)
		}
		if ran && r.reread() {
			return ErrReread
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.HangUp:
			return ErrReread
		case <-time.After(pause):
		}
	}
}

func (r *Runner) reread() bool { return r.Reread != nil && r.Reread() }

// follower is a source that is to be asked again when another has changed,
// which is named before it.
type follower interface{ Follows(Collector) bool }

// schedule is when a source, or a command that failed, is to be tried again.
type schedule struct {
	polled bool      // not only on an event
	due    time.Time // zero: on an event
	pause  time.Duration
}

// again sets the next try: soon after a change, later and later otherwise.
// Machines that were started together must not ask together for ever.
func (s *schedule) again(r *Runner, changed bool) {
	if changed || s.pause == 0 {
		s.pause = r.Min
	} else {
		s.pause = min(2*s.pause, r.Max)
	}
	jitter := time.Duration(rand.Int64N(int64(s.pause)/8 + 1))
	s.due = time.Now().Add(s.pause - jitter)
}

// loop is the state of Run; one goroutine owns it.
type loop struct {
	*Runner
	sources []schedule // as Runner.Sources
	command schedule   // due when the command, or collecting, is to be tried again
	events  chan event
	quiet   time.Time // when the configuration last changed
	looked  bool      // for files that were edited before the start
}

// event says that a source may have changed, or that it cannot tell.
type event struct {
	source int
	err    error
	repair bool // not a source: configured files may have been edited
}

// Run collects, and collects again what changes, until the context ends or,
// the command having succeeded with what there is, nothing has changed for
// Converged, which is no error. Sources that cannot
// say when they change are polled, as is everything that failed, with pauses
// from Min to Max. Without such sources it sleeps until something happens.
func (r *Runner) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	r.news = true
	l := &loop{Runner: r, sources: make([]schedule, len(r.Sources)), events: make(chan event), quiet: time.Now()}
	ended := l.listen(ctx)
	defer func() { cancel(); ended() }()
	if r.Repair != nil {
		r.Repair.refresh(ctx, r)
	}
	for i := range l.sources {
		l.sources[i].due = time.Now()
	}
	for {
		if err := l.round(ctx); err != nil {
			return err
		}
		timer, stop := l.timer()
		select {
		case <-ctx.Done():
			stop()
			return ctx.Err()
		case <-r.HangUp:
			stop()
			return ErrReread
		case e := <-l.events:
			l.take(ctx, e)
		case <-timer:
			if l.converged() {
				stop()
				l.Say("nothing has changed for %s", l.Converged)
				return nil
			}
		}
		stop()
	}
}

// listen starts the notifiers; the function it returns waits for their end.
func (l *loop) listen(ctx context.Context) (ended func()) {
	done := make(chan struct{})
	n := 0
	start := func(e event, notify func(context.Context, func()) error) {
		n++
		go func() {
			defer func() { done <- struct{}{} }()
			send := func(e event) {
				select {
				case l.events <- e:
				case <-ctx.Done():
				}
			}
			if err := notify(ctx, func() { send(e) }); err != nil && ctx.Err() == nil {
				e.err = err
				send(e)
			}
		}()
	}
	for i, s := range l.Sources {
		if notifier, ok := s.Collector.(Notifier); ok {
			start(event{source: i}, notifier.Notify)
		} else {
			l.sources[i].polled = true
		}
	}
	if l.Repair != nil {
		start(event{repair: true}, l.Repair.Notify)
	}
	return func() {
		for range n {
			<-done
		}
	}
}

// take notes an event.
func (l *loop) take(ctx context.Context, e event) {
	switch {
	case e.repair && e.err != nil:
		l.Say("configured files are not looked after: %v", e.err)
	case e.repair:
		l.look(ctx)
	default:
		s := &l.sources[e.source]
		s.due = time.Now()
		if e.err != nil && !s.polled {
			s.polled = true
			l.note(l.Sources[e.source].Name, e.err.Error())
		}
	}
}

// round asks the sources that are due, and runs the command where something
// changed or is to be tried again. Only the context's error is returned, and
// ErrReread.
func (l *loop) round(ctx context.Context) error {
	now := time.Now()
	asked := l.command.isDue(now)
	retry := asked
	var failed error
	var failing *schedule
	var polled []*schedule
	for i := range l.sources {
		s := &l.sources[i]
		if !s.isDue(now) {
			continue
		}
		asked, s.due = true, time.Time{}
		news := l.news
		l.news = false
		later, err := l.ask(ctx, l.Sources[i])
		if l.news {
			l.wakeFollowers(i, now)
		}
		l.news = l.news || news
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed, failing = err, s
		}
		if s.polled || later || err != nil {
			polled = append(polled, s)
		}
	}
	if !asked {
		return nil
	}
	if failed != nil {
		l.postpone(polled, failing, failed)
		return nil
	}
	ran, err := false, error(nil)
	if l.news || retry {
		ran, err = l.apply(ctx)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	for _, s := range polled {
		s.again(l.Runner, ran && err == nil)
	}
	if l.Repair != nil && err == nil {
		l.lookAfter(ctx, ran)
	}
	if ran && l.reread() {
		return ErrReread
	}
	return nil
}

// postpone ends a round in which a source failed: nothing is delivered before
// that has been asked again.
func (l *loop) postpone(polled []*schedule, failing *schedule, err error) {
	for _, s := range polled {
		s.again(l.Runner, false)
	}
	l.command = *failing
	l.Say("%v; trying again in %s", err, failing.pause)
}

// apply delivers, and sets when that is to be tried again.
func (l *loop) apply(ctx context.Context) (ran bool, err error) {
	l.news = false
	was := l.applied
	ran, err = l.deliver(ctx)
	if ran || l.applied != was {
		l.quiet = time.Now()
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		l.command.again(l.Runner, false)
		l.Say("%v; trying again in %s", err, l.command.pause)
	default:
		l.command = schedule{}
	}
	return ran, err
}

// lookAfter looks after the configured files when nothing has failed.
func (l *loop) lookAfter(ctx context.Context, ran bool) {
	switch {
	case ran:
		l.Repair.refresh(ctx, l.Runner)
		l.restore, l.looked = false, true
	case l.applied && !l.looked:
		l.looked = true
		l.look(ctx)
	}
}

// look compares the configured files with what they should be. While the
// command has not succeeded they are not what they should be, and it is tried
// again anyhow.
func (l *loop) look(ctx context.Context) {
	if l.applied && l.Repair.look(ctx, l.Runner) {
		l.restore, l.command.due = true, time.Now()
	}
}

// wakeFollowers makes due what follows a source.
func (l *loop) wakeFollowers(source int, now time.Time) {
	for i := source + 1; i < len(l.Sources); i++ {
		if f, ok := l.Sources[i].Collector.(follower); ok && f.Follows(l.Sources[source].Collector) {
			l.sources[i].due = now
		}
	}
}

func (s *schedule) isDue(now time.Time) bool { return !s.due.IsZero() && !s.due.After(now) }

// timer fires when something is due; nothing that is due is a nil channel,
// and no work for the machine.
func (l *loop) timer() (fires <-chan time.Time, stop func()) {
	first := l.command.due
	sooner := func(t time.Time) {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for i := range l.sources {
		sooner(l.sources[i].due)
	}
	if l.Converged > 0 && l.applied && l.command.due.IsZero() {
		sooner(l.quiet.Add(l.Converged))
	}
	if first.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(first))
	return t.C, func() { t.Stop() }
}

// converged says that it is time to end: the command has succeeded with the
// documents there are, and nothing has changed for long enough.
func (l *loop) converged() bool {
	return l.Converged > 0 && l.applied && l.command.due.IsZero() && time.Since(l.quiet) >= l.Converged
}
