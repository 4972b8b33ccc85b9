package vm

import (
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The addresses of QEMU's user network are always the same (qemu(1), -netdev
// user): this machine's, the host's, and that of a name server which passes
// questions on to the host's.
var (
	ownAddress = netip.AddrFrom4([4]byte{10, 0, 2, 15})
	netMask    = netip.AddrFrom4([4]byte{255, 255, 255, 0})
	gateway    = netip.AddrFrom4([4]byte{10, 0, 2, 2})
)

// ResolvConf is the resolver's configuration in the machine.
const ResolvConf = "nameserver 10.0.2.3\n"

// network brings up the loopback and the first other interface.
func network() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := up(fd, "lo"); err != nil {
		return err
	}
	card, err := card()
	if err != nil {
		return err
	}
	for _, a := range []struct {
		request uint
		ip      netip.Addr
	}{{unix.SIOCSIFADDR, ownAddress}, {unix.SIOCSIFNETMASK, netMask}} {
		r, err := unix.NewIfreq(card)
		if err != nil {
			return err
		}
		if err := r.SetInet4Addr(a.ip.AsSlice()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, a.request, r); err != nil {
			return fmt.Errorf("address of %s: %w", card, err)
		}
	}
	if err := up(fd, card); err != nil {
		return err
	}
	return route(fd)
}

func up(fd int, name string) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// card waits for an interface that is not the loopback.
func card() (string, error) {
	for end := time.Now().Add(netLimit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		entries, err := os.ReadDir("/sys/class/net")
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			if e.Name() != "lo" {
				return e.Name(), nil
			}
		}
	}
	return "", errNoInterface
}

// rtentry is the kernel's struct rtentry of 64-bit machines (route(4),
// linux/route.h).
type rtentry struct {
	_       uint64
	dst     unix.RawSockaddrInet4
	gateway unix.RawSockaddrInet4
	genmask unix.RawSockaddrInet4
	flags   uint16
	_       int16
	_       uint32
	_       uint64
	_       uintptr
	_       int16
	_       [3]int16
	_       uintptr
	_       uint64
	_       uint64
	_       uint16
}

// route sets the default route.
func route(fd int) error {
	r := rtentry{flags: unix.RTF_UP | unix.RTF_GATEWAY}
	r.dst.Family, r.gateway.Family, r.genmask.Family = unix.AF_INET, unix.AF_INET, unix.AF_INET
	copy(r.gateway.Addr[:], gateway.AsSlice())
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return fmt.Errorf("default route: %w", errno)
	}
	return nil
}
