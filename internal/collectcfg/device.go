package collectcfg

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// fingerprint tells one state of a device from another.
type fingerprint struct {
	path   string
	fsType string // vfat or iso9660
	head   [sha256.Size]byte
}

// headSize is how much of a device is hashed.
const headSize = 1 << 20

// seedLabel is the label of a seed, in any mix of cases.
const seedLabel = "cidata"

// findSeed looks at every block device the kernel knows. It does not need
// udev: it runs when the machine has only just started.
func findSeed(sysBlock, dev string) (fingerprint, error) {
	names, err := os.ReadDir(sysBlock)
	if err != nil {
		return fingerprint{}, err
	}
	for _, n := range names {
		size, err := os.ReadFile(filepath.Join(sysBlock, n.Name(), "size"))
		if err != nil || strings.TrimSpace(string(size)) == "0" {
			continue // an empty drive, an unused loop device
		}
		path := filepath.Join(dev, strings.ReplaceAll(n.Name(), "!", "/"))
		if fp, ok := probe(path); ok {
			return fp, nil
		}
	}
	return fingerprint{}, unavailable{errors.New("no file system is labelled CIDATA")}
}

// probe reads the label of a device. One that cannot be read is no seed.
func probe(path string) (fingerprint, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fingerprint{}, false
	}
	defer f.Close()
	for fsType, label := range map[string]func(io.ReaderAt) string{"vfat": fatLabel, "iso9660": isoLabel} {
		if !strings.EqualFold(label(f), seedLabel) {
			continue
		}
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(f, 0, headSize)); err != nil {
			return fingerprint{}, false
		}
		return fingerprint{path, fsType, [sha256.Size]byte(h.Sum(nil))}, true
	}
	return fingerprint{}, false
}

// isoLabel is the volume identifier of an ISO 9660 file system, or "".
func isoLabel(r io.ReaderAt) string {
	b := make([]byte, 72)
	if _, err := r.ReadAt(b, 16*2048); err != nil || b[0] != 1 || string(b[1:6]) != "CD001" {
		return ""
	}
	return strings.TrimRight(string(b[40:72]), " \x00")
}

// fatLabel is the label of a FAT file system, or "": that of the root
// directory where there is one, else that of the boot sector, as blkid has it.
func fatLabel(r io.ReaderAt) string {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return ""
	}
	le16 := func(at int) int64 { return int64(binary.LittleEndian.Uint16(b[at:])) }
	le32 := func(at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	sector, cluster, reserved, fats := le16(11), int64(b[13]), le16(14), int64(b[16])
	if sector < 512 || sector > 4096 || sector&(sector-1) != 0 || cluster == 0 || reserved == 0 || fats == 0 || fats > 2 {
		return ""
	}
	root, size := (reserved+fats*le16(22))*sector, le16(17)*32
	label := b[43:54]
	if le16(22) == 0 { // FAT32: the root directory is a chain; its first cluster will do
		root, size = (reserved+fats*le32(36)+(le32(44)-2)*cluster)*sector, cluster*sector
		label = b[71:82]
	} else if string(b[54:57]) != "FAT" {
		return ""
	}
	if l, ok := rootLabel(io.NewSectionReader(r, root, min(size, 1<<20))); ok {
		return l
	}
	return strings.TrimRight(string(label), " ")
}

// rootLabel finds the entry that is the volume's label.
func rootLabel(dir io.Reader) (string, bool) {
	const size, deleted, longName, volume = 32, 0xe5, 0x0f, 0x08
	e := make([]byte, size)
	for {
		if _, err := io.ReadFull(dir, e); err != nil || e[0] == 0 {
			return "", false
		}
		if e[0] != deleted && e[11]&longName != longName && e[11]&volume != 0 {
			return string(bytes.TrimRight(e[:11], " ")), true
		}
	}
}

// mountReadOnly mounts a device of unknown origin. The kernel loads the file
// system's module by itself where it can.
func mountReadOnly(ctx context.Context, dev, dir, fsType string) error {
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount(dev, dir, fsType, flags, "")
	if !errors.Is(err, unix.ENODEV) {
		return err
	}
	x := command.Exec{Args: []string{"modprobe", fsType}, Remedy: "the image needs the package kmod"}
	if err := x.Run(ctx); err != nil {
		return fmt.Errorf("the kernel does not know %s: %w", fsType, err)
	}
	return unix.Mount(dev, dir, fsType, flags, "")
}
