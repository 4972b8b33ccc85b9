package refreshcfg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// runningFile is the number of the open file by which a migration's hook, and
// all that it starts, hold the migration's lock. It is above what shell scripts
// use, and below what bash takes for itself.
const runningFile = 198

// patience is how long a migration waits for what an earlier run left of it.
var patience = 10 * time.Second

// running locks a migration: the hook that inherits the file holds the lock
// until it and everything that it started have ended, even when this process
// was killed. What still holds it after a while is named by the error.
func (s state) running(ctx context.Context, m *Migration) (*os.File, error) {
	name := filepath.Join(s.dir, "migrations", m.Name+".lock")
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for end := time.Now().Add(patience); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(end); {
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), f.Close())
		case <-time.After(50 * time.Millisecond):
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		who := or(strings.Join(holders(f), ", "), "unknown processes")
		err = command.Hint(fmt.Errorf("%s: an earlier start of it still runs: %s", m.Name, who),
			"wait for these processes to end, or end them, and run again")
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// inherited are the files of a hook that holds the lock, from 3 on.
func inherited(lock *os.File) []*os.File {
	files := make([]*os.File, runningFile-2)
	files[runningFile-3] = lock
	return files
}

// holders are the other processes that have a file open, "PID (NAME)" by PID.
func holders(f *os.File) []string {
	var want unix.Stat_t
	if unix.Fstat(int(f.Fd()), &want) != nil {
		return nil
	}
	found := map[int]string{}
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
		var st unix.Stat_t
		if pid == os.Getpid() || found[pid] != "" || unix.Stat(link, &st) != nil || st.Dev != want.Dev || st.Ino != want.Ino {
			continue
		}
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		found[pid] = fmt.Sprintf("%d (%s)", pid, strings.TrimSpace(string(name)))
	}
	var pids []int
	for pid := range found {
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	var list []string
	for _, pid := range pids {
		list = append(list, found[pid])
	}
	return list
}
