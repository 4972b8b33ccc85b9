package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// A PostgreSQL server that is restarted in mid-run costs time and nothing else.
func TestDatabaseRestarts(t *testing.T) {
	t.Parallel()
	server := storetest.New(t)
	f := open(t, server.Database(t))
	f.hire("w1", 2)
	begun := make(chan struct{}, 16)
	f.work = func(context.Context, *Assignment) Result {
		begun <- struct{}{}
		time.Sleep(300 * time.Millisecond)
		return Result{State: pipeline.Passed, Image: "sha256:abc"}
	}
	id := f.submit(chain)
	<-begun
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(time.Minute)
	for {
		r, err := f.engine.Run(t.Context(), id)
		if err == nil && r.Status.Ended() {
			if got := stages(r); got != "passed, build passed, smoke passed, metal passed, promote passed" {
				t.Error(got)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v, %v", r, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	if got := f.begun(); len(got) != 4 {
		t.Errorf("begun: %q", got)
	}
}

// Two servers on one PostgreSQL database: one dies in mid-run (nothing of it is
// closed), the other goes on, and what was finished is not done again.
func TestTwoServers(t *testing.T) {
	where := storetest.Where(t, "postgresql")
	stays := open(t, where)
	db, err := store.Open(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	dies := New(db)
	queue, err := StartDispatcher(t.Context(), dies)
	if err != nil {
		t.Fatal(err)
	}
	var all []int64
	for range 5 {
		id, err := dies.Submit(t.Context(), Submission{Pipeline: parse(t, chain), File: "test.yaml"})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	a, err := dies.Claim(t.Context(), WorkerInfo{Name: "of the one that dies", Slots: 1}, 10*time.Second)
	if err != nil || a == nil {
		t.Fatal(err)
	}
	if err := dies.Finish(t.Context(), a.Attempt, Result{State: pipeline.Passed}); err != nil {
		t.Fatal(err)
	}
	_ = queue.Close()
	_ = db.Close()
	stays.hire("w2", 4)
	for _, id := range all {
		if r := stays.ended(id, time.Minute); r.Status != pipeline.Passed {
			t.Error(stages(r))
		}
	}
	if begun := stays.begun(); len(begun) != 4*len(all)-1 || slices.Contains(begun, fmt.Sprintf("%d/%s/2", a.Run, a.Stage)) {
		t.Errorf("begun: %q", begun)
	}
}

// A clock that jumps, forwards or back, loses nothing: at worst an attempt is
// done again.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		f := open(t, db.Where())
		f.hire("w1", 1)
		f.work = func(context.Context, *Assignment) Result {
			time.Sleep(100 * time.Millisecond)
			return Result{State: pipeline.Passed, Image: "sha256:abc"}
		}
		jumpingSweeps(t, f)
		id := f.submit(chain)
		if r := f.ended(id, time.Minute); r.Status != pipeline.Passed {
			t.Error(stages(r))
		}
	})
}

// jumpingSweeps sweeps with clocks that are wrong while the test goes on.
func jumpingSweeps(t *testing.T, f *floor) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			e := New(f.engine.Store())
			e.Now = func() time.Time {
				return time.Now().Add([]time.Duration{-10 * time.Hour, 20 * time.Second, -time.Minute}[i%3])
			}
			_, _ = e.Sweep(ctx)
			pause(ctx, 20*time.Millisecond)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// A full disk stops the runs of a SQLite file, and loses nothing: they go on when
// there is room again.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	f := open(t, dir+"/db")
	begun := make(chan struct{}, 16)
	full := make(chan struct{})
	f.work = func(_ context.Context, a *Assignment) Result {
		if a.Stage == "build" {
			begun <- struct{}{}
			<-full
		}
		return Result{State: pipeline.Passed}
	}
	f.hire("w1", 1)
	id := f.submit(chain)
	<-begun
	ballast, err := os.Create(dir + "/ballast")
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = ballast.Write(make([]byte, 4096))
	}
	close(full)
	time.Sleep(3 * time.Second)
	if err := ballast.Truncate(0); err != nil {
		t.Fatal(err)
	}
	r := f.ended(id, time.Minute)
	if got := stages(r); got != "passed, build passed, smoke passed, metal passed, promote passed" {
		t.Error(got)
	}
	if len(f.begun()) != 4 {
		t.Errorf("begun: %q", f.begun())
	}
}
