package step

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/evidence"
	"goldsmith/pipeline"
	"goldsmith/testbed"
)

// powerWith are the parameters of the suite power-cycle.
type powerWith struct {
	machineWith `yaml:",inline"`
	Times       int    // empty means 5
	Seed        uint64 // of the random moments; empty means 1
}

// powerCycle cuts a machine's power at random moments.
type powerCycle struct {
	with    *powerWith
	longest time.Duration // that a machine is written to before its power goes
}

const longestWrite = 10 * time.Second

func newPowerCycle(env Env, p *pipeline.Pipeline, stage string) (pipeline.Step, error) {
	w := powerWith{Times: 5, Seed: 1}
	if err := p.DecodeWith(stage, &w); err != nil {
		return nil, err
	}
	if w.Times < 1 || w.Times > maxTimes {
		return nil, p.Errorf(stage, "times", "with.times is %d: expected 1 to %d", w.Times, maxTimes)
	}
	return newOnMachine(env, p, stage, &w.machineWith, "power-cycle", &powerCycle{&w, longestWrite})
}

// prepare implements preparer.
func (c *powerCycle) prepare(_ context.Context, env Env, j *pipeline.Job) ([]evidence.Test, string, error) {
	return nil, "", mayBeAsked(env, j, "ssh-server")
}

// cut is one moment at which the power goes.
type cut struct {
	booting bool    // during a start, else while the machine is written to
	part    float64 // of that time, from 0 to less than 1
}

// cuts are the moments: by turns under load and during a start.
func cuts(seed uint64, times int) []cut {
	r := rand.New(rand.NewPCG(seed, 0))
	list := make([]cut, times)
	for i := range list {
		list[i] = cut{i%2 == 1, r.Float64()}
	}
	return list
}

// of is the moment, counted from the beginning of a time that long.
func (c cut) of(d time.Duration) time.Duration { return time.Duration(c.part * float64(d)) }

// run implements suite.
func (c *powerCycle) run(ctx context.Context, s *subject) ([]evidence.Test, error) {
	return s.inParts(ctx, func(ctx context.Context) error {
		if err := s.begin(ctx, s.job.Image); err != nil {
			return err
		}
		w := &diskLoad{shell: s.ssh}
		boot := time.Duration(s.tests[0].Seconds * float64(time.Second))
		longest := time.Duration(0)
		for i, moment := range cuts(c.with.Seed, c.with.Times) {
			name := fmt.Sprintf("cut-%d-%s", i+1, map[bool]string{true: "booting", false: "writing"}[moment.booting])
			err := s.part(ctx, name, func(ctx context.Context) (err error) {
				boot, err = c.cutPower(ctx, s, w, moment, boot)
				longest = max(longest, boot)
				return err
			})
			if err != nil {
				return err
			}
		}
		s.measure("power-seconds-longest", longest.Seconds(), "s")
		s.measure("power-writes", float64(len(w.ledger.all())), "writes")
		return s.smokeAgain(ctx, s.img, "after")
	})
}

// cutPower cuts the power once, and looks at what came back. boot is how long
// the latest start took, and so is what it returns.
func (c *powerCycle) cutPower(ctx context.Context, s *subject, w *diskLoad, moment cut,
	boot time.Duration) (time.Duration, error) {
	mark, err := s.m.Console().Mark()
	if err != nil {
		return boot, err
	}
	if moment.booting {
		if err = s.m.PowerOff(ctx); err == nil {
			err = errors.Join(s.m.PowerOn(ctx), sleep(ctx, moment.of(boot)))
		}
	} else {
		err = w.during(ctx, func(ctx context.Context) error {
			return errors.Join(sleep(ctx, moment.of(c.longest)), s.m.PowerOff(ctx))
		})
	}
	if err := errors.Join(err, s.m.PowerOff(ctx)); err != nil {
		return boot, err
	}
	_ = s.ssh.Close()
	s.drain(ctx)
	started := time.Now()
	if err = s.m.PowerOn(ctx); err == nil {
		err = s.awaitConfigured(ctx, mark)
	}
	if err != nil {
		return boot, err
	}
	boot = time.Since(started)
	gone, err := w.lost(ctx, s)
	if err == nil {
		s.measure("power-lost-writes", float64(len(gone)), "writes")
		err = lostError(gone, len(w.ledger.all()))
	}
	return boot, errors.Join(err, s.fileSystemsClean(ctx), s.unitsRun(ctx), s.quiet(mark))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// fileSystemsClean is an error when the kernel has found one damaged, or when
// one was made anew: docs/boot.md.
func (s *subject) fileSystemsClean(ctx context.Context) error {
	text, err := s.output(ctx, "grep -Hv '^0$' /sys/fs/ext4/*/errors_count || true")
	if err == nil && text != "" {
		err = shown("a file system has errors: " + strings.TrimSpace(text))
	}
	if err != nil || !s.hasSlots() {
		return err
	}
	st, err := s.status(ctx)
	if err == nil && st.Boot.State != "" {
		err = shown("the state partition was damaged: " + st.Boot.State)
	}
	return err
}

// diskLoad writes numbers to a file of the machine, each flushed to the disk
// before it is acknowledged.
type diskLoad struct {
	shell  testbed.Shell
	ledger ledger
}

// writeScript takes the first number. printf is the shell's own: a line is one
// write.
const writeScript = `set -e
mkdir -p ` + dataDir + `; sync ` + dataDir + `
i=%d
while :; do
  printf '%%d\n' "$i" >>` + dataDir + `/writes
  sync ` + dataDir + `/writes ` + dataDir + `
  printf '%%d\n' "$i"
  i=$((i + 1))
done`

// during writes while f does what it does, which begins with the first
// acknowledged write. The writer ends with the connection.
func (w *diskLoad) during(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, out := io.Pipe()
	read := make(chan struct{})
	go func() {
		defer close(read)
		w.read(r)
	}()
	ended := make(chan error, 1)
	from := time.Now()
	go func() {
		acks := w.ledger.all()
		next := 1
		if len(acks) > 0 {
			next = acks[len(acks)-1].n + 1
		}
		err := w.shell.Run(ctx, testbed.Command{Line: fmt.Sprintf(writeScript, next), Stdout: out})
		_ = out.Close()
		ended <- err
	}()
	limited, stop := context.WithTimeoutCause(ctx, loadLimit, fmt.Errorf("not within %s", loadLimit))
	defer stop()
	err := w.ledger.await(limited, from)
	if err == nil {
		err = f(ctx)
	}
	cancel()
	remote, ok := errors.AsType[*testbed.RemoteError](<-ended)
	<-read
	if ok {
		return errors.Join(err, remote) // without power it cannot have said that
	}
	return err
}

// read takes acknowledged numbers. A line that the power cut is none.
func (w *diskLoad) read(r io.Reader) {
	b := bufio.NewReader(r)
	for {
		line, err := b.ReadString('\n')
		if err != nil {
			return
		}
		if n, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			w.ledger.ack(n, time.Now())
		}
	}
}

// lost reads all acknowledged writes back.
func (w *diskLoad) lost(ctx context.Context, s *subject) ([]int, error) {
	text, err := s.output(ctx, "cat "+dataDir+"/writes 2>/dev/null || true")
	if err != nil {
		return nil, err
	}
	there := map[int]bool{}
	for line := range strings.Lines(text) {
		if n, err := strconv.Atoi(strings.TrimSuffix(line, "\n")); err == nil && strings.HasSuffix(line, "\n") {
			there[n] = true
		}
	}
	return lost(w.ledger.all(), func(n int) bool { return there[n] }), nil
}
