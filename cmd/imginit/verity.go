package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"goldsmith/internal/verity/superblock"
)

// rootHash is the root hash of a dm-verity tree: a SHA-256.
type rootHash [32]byte

// mapperName is what the root's device is called, below /dev/mapper.
const mapperName = "root"

// openVerity makes a device that shows the partition root as far as its blocks
// are what the root hash says. A block that is not makes the kernel panic: a
// system that goes on without it would only fail later and less clearly.
func openVerity(root, tree string, hash rootHash) (string, error) {
	f, err := os.Open(tree)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sb, err := superblock.Read(f)
	if err != nil {
		return "", fmt.Errorf("hash tree on %s: %w", tree, err)
	}
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("device-mapper: %w", err)
	}
	defer control.Close()
	// The name and the UUID are as veritysetup and systemd make them.
	uuid := "CRYPT-VERITY-" + hex.EncodeToString(sb.UUID[:]) + "-" + mapperName
	m := mapper{control: control, name: mapperName, uuid: uuid}
	minor, err := m.create("verity", uint64(sb.DataBlocks)*superblock.BlockSize/512, verityTable(root, tree, sb, hash))
	if err != nil {
		return "", fmt.Errorf("dm-verity on %s and %s: %w", root, tree, err)
	}
	// devtmpfs has the device as dm-N; nobody else makes the name in time.
	name := "/dev/mapper/" + mapperName
	return name, os.Symlink(fmt.Sprintf("../dm-%d", minor), name)
}

// verityTable is the target's line, by the kernel's
// Documentation/admin-guide/device-mapper/verity.rst.
func verityTable(root, tree string, sb *superblock.Superblock, hash rootHash) string {
	salt := "-"
	if len(sb.Salt) > 0 {
		salt = hex.EncodeToString(sb.Salt)
	}
	return fmt.Sprintf("1 %s %s %d %d %d 1 sha256 %x %s 1 panic_on_corruption",
		root, tree, superblock.BlockSize, superblock.BlockSize, sb.DataBlocks, hash, salt)
}

// mapper is one device of the device-mapper, by the ioctls of
// include/uapi/linux/dm-ioctl.h.
type mapper struct {
	control    *os.File
	name, uuid string
}

const (
	dmHeader   = 312 // struct dm_ioctl
	dmTarget   = 40  // struct dm_target_spec
	dmReadOnly = 1   // DM_READONLY_FLAG

	dmDevCreate  = 3
	dmDevRemove  = 4
	dmDevSuspend = 6 // without the flag that asks to suspend it resumes
	dmTableLoad  = 9
)

// create makes a read-only device of one target, sectors of 512 bytes long,
// and returns its minor number.
func (m mapper) create(target string, sectors uint64, params string) (minor uint32, err error) {
	dev, err := m.ioctl(dmDevCreate, nil)
	if err != nil {
		return 0, fmt.Errorf("create the device: %w", err)
	}
	defer func() {
		if err != nil {
			_, gone := m.ioctl(dmDevRemove, nil)
			err = errors.Join(err, gone)
		}
	}()
	if _, err := m.ioctl(dmTableLoad, targetSpec(target, sectors, params)); err != nil {
		return 0, fmt.Errorf("load its table: %w (the kernel's log says more)", err)
	}
	if _, err := m.ioctl(dmDevSuspend, nil); err != nil {
		return 0, fmt.Errorf("start it: %w", err)
	}
	return unix.Minor(dev), nil
}

// targetSpec is the only target of a table.
func targetSpec(target string, sectors uint64, params string) []byte {
	b := make([]byte, (dmTarget+len(params)+1+7)&^7)
	binary.NativeEndian.PutUint64(b[8:], sectors)
	copy(b[24:40], target)
	copy(b[dmTarget:], params)
	return b
}

// request is what an ioctl reads and writes.
func (m mapper) request(payload []byte) []byte {
	ne := binary.NativeEndian
	b := append(make([]byte, dmHeader), payload...)
	ne.PutUint32(b, 4) // the version of the interface
	ne.PutUint32(b[12:], uint32(len(b)))
	ne.PutUint32(b[16:], dmHeader) // where the payload is
	if payload != nil {
		ne.PutUint32(b[20:], 1) // targets
	}
	ne.PutUint32(b[28:], dmReadOnly)
	copy(b[48:48+127], m.name)
	copy(b[176:176+128], m.uuid)
	return b
}

func (m mapper) ioctl(command uintptr, payload []byte) (dev uint64, err error) {
	b := m.request(payload)
	if command != dmDevCreate {
		clear(b[176:305]) // by name alone, or the kernel refuses
	}
	const readWrite = 3 << 30
	number := readWrite | dmHeader<<16 | 0xfd<<8 | command
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, m.control.Fd(), number, uintptr(unsafe.Pointer(&b[0]))); errno != 0 {
		return 0, errno
	}
	return binary.NativeEndian.Uint64(b[40:]), nil
}
