package drift

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Verity is what the kernel says about the root's device.
type Verity struct {
	Target string // of the device-mapper: "verity"
	Table  string // see the kernel's admin-guide/device-mapper/verity.rst
	Status string // "V", or "C" for one that met a block that is not what the tree says
}

// Check compares with the root hash that the kernel was started with.
func (v Verity) Check(rootHash string) []Drift {
	wrong := func(format string, args ...any) []Drift {
		return []Drift{{Root, "/", fmt.Sprintf(format, args...)}}
	}
	// version data hash data-block hash-block blocks start algorithm digest salt
	f := strings.Fields(v.Table)
	switch {
	case v.Target != "verity" || len(f) < 10:
		return wrong("the root is not on a dm-verity device")
	case f[8] != rootHash:
		return wrong("verified by root hash %s; the kernel was started for %s", f[8], rootHash)
	case v.Status != "V":
		return wrong("a block of root or hash tree was changed")
	case !strings.Contains(v.Table, "panic_on_corruption"):
		return wrong("a changed block would not stop the machine")
	}
	return nil
}

// CommandLineHash is the root hash in a kernel command line, or "".
func CommandLineHash(cmdline string) string {
	hash := ""
	for word := range strings.FieldsSeq(cmdline) {
		if v, ok := strings.CutPrefix(word, "roothash="); ok {
			hash = v
		}
	}
	return hash
}

// Layout of struct dm_ioctl and struct dm_target_spec, by the kernel's
// include/uapi/linux/dm-ioctl.h.
const (
	dmSize        = 16 << 10
	dmHeader      = 312
	dmSpec        = 40
	dmTableStatus = 0xc138fd0c // _IOWR(0xfd, 12, struct dm_ioctl)
	dmTableFlag   = 1 << 4     // DM_STATUS_TABLE_FLAG
)

// ReadVerity asks the device-mapper about the device of a mounted file system.
// One on another device gives the zero Verity.
func ReadVerity(dir string) (v Verity, err error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return v, err
	}
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d/dm", unix.Major(st.Dev), unix.Minor(st.Dev))); err != nil {
		return v, nil
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return v, err
	}
	defer control.Close()
	if v.Target, v.Table, err = dmStatus(control, st.Dev, dmTableFlag); err != nil {
		return v, err
	}
	_, v.Status, err = dmStatus(control, st.Dev, 0)
	return v, err
}

// dmStatus returns the first target of a device, and what is said about it.
func dmStatus(control *os.File, dev uint64, flags uint32) (target, text string, err error) {
	ne := binary.NativeEndian
	b := make([]byte, dmSize)
	ne.PutUint32(b, 4) // the version of the interface
	ne.PutUint32(b[12:], uint32(len(b)))
	ne.PutUint32(b[16:], dmHeader)
	ne.PutUint32(b[28:], flags)
	ne.PutUint64(b[40:], dev)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), dmTableStatus, uintptr(unsafe.Pointer(&b[0])))
	if errno != 0 {
		return "", "", fmt.Errorf("device-mapper: %w", errno)
	}
	return parseStatus(b)
}

func parseStatus(b []byte) (target, text string, err error) {
	ne := binary.NativeEndian
	start := uint64(ne.Uint32(b[16:]))
	if ne.Uint32(b[20:]) == 0 || start+dmSpec > uint64(len(b)) {
		return "", "", nil
	}
	spec := b[start:]
	return untilZero(spec[24:dmSpec]), strings.TrimSpace(untilZero(spec[dmSpec:])), nil
}

func untilZero(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
