package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/fat"
	"goldsmith/internal/iso9660"
)

// volume is a small file system that whoever deploys the machine attached to
// it. It is read in this process, not mounted: the kernel's drivers never see
// what a stranger wrote, and need not be there.
type volume interface {
	Label() string
	ReadFile(path string, limit int64) ([]byte, error)
}

// openVolume tells which file system it is.
func openVolume(r io.ReaderAt) (volume, error) {
	v, err := fat.Open(r)
	if err == nil {
		return v, nil
	}
	return iso9660.Open(r)
}

// blockDevices is where the kernel lists the machine's devices, and where
// their nodes are.
type blockDevices struct{ sys, dev string }

var machineDevices = blockDevices{"/sys/class/block", "/dev"}

// with calls use with the first volume that has the label, in any mix of
// cases. It does not need udev: it runs when the machine has only just
// started. A device that cannot be read is none.
func (d blockDevices) with(label string, use func(path string, v volume) error) error {
	names, err := os.ReadDir(d.sys)
	if err != nil {
		return err
	}
	for _, n := range names {
		size, err := os.ReadFile(filepath.Join(d.sys, n.Name(), "size"))
		if err != nil || strings.TrimSpace(string(size)) == "0" {
			continue // an empty drive, an unused loop device
		}
		path := filepath.Join(d.dev, strings.ReplaceAll(n.Name(), "!", "/"))
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		v, err := openVolume(f)
		if err != nil || !strings.EqualFold(v.Label(), label) {
			f.Close()
			continue
		}
		err = use(path, v)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return nil
	}
	return detached{unavailable{fmt.Errorf("no file system is labelled %s", label)}}
}

// notify calls wake whenever the kernel says that a block device came, went or
// changed (NETLINK_KOBJECT_UEVENT, netlink(7)).
func (d blockDevices) notify(ctx context.Context, wake func()) error {
	const kind = unix.SOCK_DGRAM | unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(unix.AF_NETLINK, kind, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return fmt.Errorf("events of devices: %w", err)
	}
	const fromKernel = 1
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: fromKernel}); err != nil {
		unix.Close(fd)
		return fmt.Errorf("events of devices: %w", err)
	}
	f := os.NewFile(uintptr(fd), "uevent")
	defer f.Close()
	defer context.AfterFunc(ctx, func() { f.Close() })()
	wake()
	b := make([]byte, 16<<10)
	for {
		n, err := f.Read(b)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // events were lost: look
			wake()
		case err != nil:
			return fmt.Errorf("events of devices: %w", err)
		case strings.Contains(string(b[:n]), "\x00SUBSYSTEM=block\x00"):
			settle(f, b)
			wake()
		}
	}
}

// settleTime is how long nothing must happen before what happened is looked
// at: one change makes several events.
const settleTime = 5 * time.Millisecond

// settle reads events until none comes for a moment, for at most ten moments.
func settle(f *os.File, b []byte) {
	for range 10 {
		_ = f.SetReadDeadline(time.Now().Add(settleTime))
		if _, err := f.Read(b); err != nil {
			break
		}
	}
	_ = f.SetReadDeadline(time.Time{})
}
