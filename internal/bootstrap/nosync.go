package bootstrap

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncCalls by the architecture's number in the kernel's audit.h. dpkg writes
// its database to the disk after each package, and programs that packages run
// do the like with their files. A tree that is not whole is thrown away, so
// that nobody gains by it.
var syncCalls = map[string]struct {
	arch  uint32
	calls []uint32 // fsync, fdatasync, sync, syncfs, sync_file_range
}{
	"amd64": {unix.AUDIT_ARCH_X86_64, []uint32{74, 75, 162, 306, 277}},
	"arm64": {unix.AUDIT_ARCH_AARCH64, []uint32{82, 83, 81, 267, 84}},
}

// withoutSync calls f on a thread whose programs, and theirs, are told that
// what they sync is on the disk (seccomp(2)). Where the kernel or the
// architecture does not have that, f is called as it is.
func withoutSync(f func() error) error {
	done := make(chan error)
	go func() {
		// The thread ends with the goroutine: the filter stays on it.
		runtime.LockOSThread()
		_ = ignoreSync()
		done <- f()
	}()
	return <-done
}

// ignoreSync puts the filter on the calling thread.
func ignoreSync() error {
	table, ok := syncCalls[runtime.GOARCH]
	if !ok {
		return fmt.Errorf("no system calls of %s are known", runtime.GOARCH)
	}
	// struct seccomp_data is the call's number and the architecture.
	n := uint8(len(table.calls))
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: table.arch, Jf: n + 1},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
	}
	for i, nr := range table.calls {
		program = append(program, unix.SockFilter{
			Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: nr, Jt: n - uint8(i),
		})
	}
	program = append(program,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: seccompAllow},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: seccompErrno}, // errno 0
	)
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	// Without the flag, kernels before 5.16 make everything on the thread slower.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, seccompSetFilter, seccompSpecAllow, uintptr(unsafe.Pointer(&fprog)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	return nil
}

// linux/seccomp.h
const (
	seccompSetFilter = 1
	seccompSpecAllow = 1 << 2

	seccompAllow = 0x7fff0000
	seccompErrno = 0x00050000
)
