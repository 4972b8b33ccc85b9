package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
)

// variation is where and as what the second build runs.
type variation struct {
	cache    string   // its cache directory
	env      []string // of its process
	faketime string   // libfaketime, or empty
	oneCore  bool
	umask    int                  // -1 leaves it
	sys      *syscall.SysProcAttr // namespaces of its process; nil for none

	what []string // is varied, in words
	not  []string // could not be, and why
}

// faketimeMark tells the second build's process where libfaketime is.
const faketimeMark = "GOLDSMITH_FAKETIME"

// takeFaketime reads that mark, and keeps it from programs that are started.
func takeFaketime() string {
	lib := os.Getenv(faketimeMark)
	_ = os.Unsetenv(faketimeMark)
	return lib
}

// faketimeLibrary is where Debian's package libfaketime has it.
const faketimeLibrary = "/usr/lib/*-linux-gnu*/faketime/libfaketime.so.1"

// plainly prepares a second build that differs in nothing but its paths.
func plainly(dir string) (*variation, error) {
	v := &variation{cache: filepath.Join(dir, "cache"), env: os.Environ(), umask: -1, what: []string{"paths"}}
	return v, os.Mkdir(v.cache, 0o755)
}

// otherwise prepares a second build that differs in everything that an image
// must not depend on. content is how much the image holds, in bytes.
func otherwise(ctx context.Context, dir string, content int64) (*variation, error) {
	deep := filepath.Join(dir, "another", "and-a-much-longer", "temporary.path", "than the first")
	v := &variation{cache: filepath.Join(deep, "kept"), oneCore: true, umask: 0o077}
	tmp, home := filepath.Join(deep, "tmp"), filepath.Join(deep, "home")
	for _, d := range []string{v.cache, tmp, home} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	v.env = append(os.Environ(),
		"TMPDIR="+tmp, "HOME="+home, "XDG_CACHE_HOME="+home, "USER=somebody", "LOGNAME=somebody",
		"TZ=GOLD-14", "LANG=tr_TR.UTF-8", "LC_ALL=tr_TR.UTF-8", "GOMAXPROCS=1")
	v.what = []string{"paths", "environment", "time zone", "language", "umask", "processors"}
	if err := v.varyOrder(content); err != nil {
		return nil, err
	}
	if err := v.varyTime(); err != nil {
		return nil, err
	}
	return v, v.varyUser(ctx)
}

// varyUser makes the second build what an ordinary user's is: root of a user
// namespace, with the rights of that. Its ids are the same outside, so that it
// can read what the first one could.
func (v *variation) varyUser(ctx context.Context) error {
	ids, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return err
	}
	if f := strings.Fields(string(ids)); len(f) != 3 || f[2] != "4294967295" {
		v.not = append(v.not, "user: the first build is an ordinary user's")
		return nil
	}
	same := []syscall.SysProcIDMap{{Size: 1 << 16}}
	sys := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: same, GidMappings: same, GidMappingsEnableSetgroups: true,
	}
	if err := (command.Exec{Args: []string{"true"}, Sys: sys}).Run(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		v.not = append(v.not, fmt.Sprintf("user: no user namespace: %v", err))
		return nil
	}
	v.sys = sys
	v.what = append(v.what, "user")
	return nil
}

// varyOrder puts the cache on a tmpfs, which lists the files of a directory
// newest first, where memory has room for all that a build keeps there.
func (v *variation) varyOrder(content int64) error {
	need := 4*content + 512<<20
	free, err := availableMemory()
	if err != nil {
		return err
	}
	if free/2 < need {
		v.not = append(v.not, fmt.Sprintf("directory order: %d MiB of memory are available, not %d", free>>20, need>>19))
		return nil
	}
	if err := mountTmpfs(v.cache, free/2); err != nil {
		return err
	}
	v.what = append(v.what, "directory order")
	return nil
}

// varyTime makes hooks see another time.
func (v *variation) varyTime() error {
	found, err := filepath.Glob(faketimeLibrary)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		v.not = append(v.not, "time: install libfaketime")
		return nil
	}
	// The library keeps files there, named by process numbers that are no
	// longer unique, and leaves them when it is killed.
	if err := mountTmpfs("/dev/shm", 64<<20); err != nil {
		return err
	}
	v.faketime = found[0]
	v.env = append(v.env, faketimeMark+"="+v.faketime)
	v.what = append(v.what, "time")
	return nil
}

// mountTmpfs mounts a tmpfs that ends with this process's namespaces.
func mountTmpfs(dir string, size int64) error {
	if !rootfs.Isolated() {
		return fmt.Errorf("mount %s: not in namespaces", dir)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("mode=755,size=%d", size)); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	return nil
}

// availableMemory is what programs can have without swapping, in bytes
// (proc_meminfo(5)).
func availableMemory() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			return kib << 10, nil
		}
	}
	return 0, nil
}

// apply does run with what its process hands down to programs.
func (v *variation) apply(run func() error) (err error) {
	if v.umask >= 0 {
		defer unix.Umask(unix.Umask(v.umask))
	}
	if !v.oneCore {
		return run()
	}
	// The kernel keeps processors by thread, and a program has those of the
	// thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("processors: %w", err)
	}
	for i := 0; one.Count() == 0 && i < len(all)*64; i++ {
		if all.IsSet(i) {
			one.Set(i)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return fmt.Errorf("processors: %w", err)
	}
	defer func() {
		if back := unix.SchedSetaffinity(0, &all); err == nil && back != nil {
			err = fmt.Errorf("processors: %w", back)
		}
	}()
	return run()
}
