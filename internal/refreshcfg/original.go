package refreshcfg

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"goldsmith/internal/hook"
)

// OldBase is the directory of phases where there is no DefaultBase.
const OldBase = "/opt/stack/os-config-refresh"

// OriginalLock is the lock file of os-refresh-config.
const OriginalLock = "/var/run/os-refresh-config.lock"

// Original runs the phases as os-refresh-config does: each hook, every time,
// one after the other, whatever its header says. All fields are required but
// Timeout.
type Original struct {
	Base, Lock     string
	Timeout        time.Duration // 0 means none
	Stdin          io.Reader
	Stdout, Stderr io.Writer // where they are files, hooks write to these themselves
	Log            func(level, message string)
}

// Run returns the exit status: 1 when a hook failed, EAGAIN when another run
// holds the lock. When the time is over, what runs is killed; error.d is run
// after that, for as long as it takes.
func (o Original) Run() int {
	lock, err := os.OpenFile(o.Lock, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o666)
	if err != nil {
		o.Log("CRITICAL", err.Error())
		return 1
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		number, _ := err.(syscall.Errno)
		o.Log("ERROR", fmt.Sprintf("Could not lock %s. [Errno %d] %s", o.Lock, int(number), sentence(number.Error())))
		return int(number)
	}
	if err := writeLock(lock); err != nil {
		o.Log("CRITICAL", err.Error())
		return 1
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if o.Timeout > 0 {
		alarm := time.AfterFunc(o.Timeout, func() {
			o.Log("ERROR", fmt.Sprintf("Timeout reached: %ds. Sending SIGKILL to all children", o.Timeout/time.Second))
			cancel()
		})
		defer alarm.Stop()
	}
	status := o.phases(ctx)
	_ = lock.Truncate(0)
	return status
}

// writeLock notes who holds the lock.
func writeLock(lock *os.File) error {
	if err := lock.Truncate(0); err != nil {
		return err
	}
	t := time.Now()
	_, err := fmt.Fprintf(lock, "Locked by pid==%d at time.struct_time(tm_year=%d, tm_mon=%d, tm_mday=%d, tm_hour=%d, tm_min=%d, tm_sec=%d, tm_wday=%d, tm_yday=%d, tm_isdst=%d)\n",
		os.Getpid(), t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), (int(t.Weekday())+6)%7, t.YearDay(), map[bool]int{true: 1}[t.IsDST()])
	return err
}

// sentence is a message of Go's as C's library words it.
func sentence(s string) string {
	if s == "" {
		return s
	}
	return string(s[0]-'a'+'A') + s[1:]
}

func (o Original) phases(ctx context.Context) int {
	for _, name := range Phases {
		dir := o.dir(name)
		o.Log("DEBUG", "Checking "+dir)
		if _, err := os.Stat(dir); err != nil {
			o.Log("DEBUG", "No dir for phase "+name)
			continue
		}
		o.Log("INFO", "Starting phase "+name)
		o.Log("DEBUG", fmt.Sprintf("Running ['dib-run-parts', '%s']", dir))
		if status := o.runParts(ctx, dir); status != 0 {
			how := fmt.Sprintf("returned non-zero exit status %d.", status)
			if ctx.Err() != nil {
				how = "died with <Signals.SIGKILL: 9>."
			}
			o.Log("ERROR", fmt.Sprintf("during %s phase. [Command '['dib-run-parts', '%s']' %s]\n", name, dir, how))
			o.failed(ctx)
			o.Log("ERROR", "Aborting...")
			return 1
		}
		o.Log("INFO", "Completed phase "+name)
	}
	return 0
}

// failed runs error.d. It may take what is left of the time; when that is
// over, it may take any.
func (o Original) failed(ctx context.Context) {
	dir := o.dir("error")
	if _, err := os.Stat(dir); err != nil {
		return
	}
	o.Log("INFO", "Calling error handlers.")
	if ctx.Err() != nil {
		ctx = context.Background()
	}
	_ = o.runParts(ctx, dir)
}

// dir is a phase's directory, joined as Python joins it.
func (o Original) dir(phase string) string {
	if o.Base == "" || strings.HasSuffix(o.Base, "/") {
		return o.Base + phase + ".d"
	}
	return o.Base + "/" + phase + ".d"
}

func (o Original) runParts(ctx context.Context, dir string) int {
	if ctx.Err() != nil {
		return 1
	}
	p := hook.RunParts{Name: "dib-run-parts", Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr}
	return p.Main(ctx, []string{dir})
}
