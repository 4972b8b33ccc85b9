package disk

import (
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"goldsmith/internal/release"
)

// Layout describes a disk. Sizes and offsets are in bytes.
type Layout struct {
	Size       int64        `json:"size"`
	GUID       string       `json:"disk_guid"`
	Partitions []Partition  `json:"partitions"`
	Root       release.Root `json:"root"` // what is in root-a and verity-a
	Boot       Boot         `json:"boot"`
}

// Partition describes one partition and what is in it.
type Partition struct {
	Number     int    `json:"number"` // from 1
	Name       string `json:"name"`
	Type       string `json:"type"` // GUID, in lower case
	GUID       string `json:"guid"` // in lower case
	Start      int64  `json:"start"`
	Size       int64  `json:"size"`
	Filesystem string `json:"filesystem,omitempty"` // vfat, erofs, verity, grub, ext4, …; empty when there is none
	Label      string `json:"label,omitempty"`
	SHA256     string `json:"sha256,omitempty"` // of an EROFS's Used bytes, in hexadecimal
	// Used is the length of an EROFS, of a hash tree with its superblock, or of
	// GRUB in whole sectors. Of a FAT it is the sum of its files in
	// what Write returns, and the clusters in use in what Inspect found.
	Used int64 `json:"used"`

	attributes uint64
}

// Boot describes how the disk starts.
type Boot struct {
	Kernel        string   `json:"kernel"` // version
	Cmdline       string   `json:"cmdline"`
	ID            string   `json:"id"`         // NAME_VERSION, what boot loaders know this version by
	UKI           string   `json:"uki"`        // path on the EFI partition
	UKIOffset     int64    `json:"uki_offset"` // in the disk; it lies there in one piece
	UKISize       int64    `json:"uki_size"`
	UKISHA256     string   `json:"uki_sha256"`
	KernelSize    int64    `json:"kernel_size"`
	InitramfsSize int64    `json:"initramfs_size"`
	Firmware      []string `json:"firmware"` // what can start the disk: "uefi", and "bios" where the image has GRUB
	// SignedBy is the SHA-256 of the certificate for Secure Boot, in
	// hexadecimal; empty when the disk is not signed.
	SignedBy string `json:"signed_by,omitempty"`
}

// Describe fills in what machines need to take only the root and the kernel
// image out of the disk.
func (l *Layout) Describe(r *release.Release) {
	root := l.Root
	r.Root = &root
	r.UKI = &release.UKI{ID: l.Boot.ID, Offset: l.Boot.UKIOffset, Size: l.Boot.UKISize, SHA256: l.Boot.UKISHA256}
}

// Partition types of the Discoverable Partitions Specification.
const (
	typeESP  = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	typeRoot = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709" // x86-64
	typeVar  = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"

	typeVerity = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5" // of typeRoot
	// Where GRUB keeps what does not fit into the first sector; GRUB's own.
	typeBIOS = "21686148-6449-6e6f-744e-656564454649"
)

// Partition attributes of the same specification.
const (
	readOnly = 1 << 60
	noAuto   = 1 << 63
)

func (l *Layout) part(name string) *Partition {
	for i := range l.Partitions {
		if l.Partitions[i].Name == name {
			return &l.Partitions[i]
		}
	}
	return nil
}

// formatGUID renders the first 16 bytes of b, in their order. The table stores
// the first three fields the other way round; that is the table's business.
func formatGUID(b []byte) string {
	s := hex.EncodeToString(b[:16])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

var le = binary.LittleEndian

// sector is the logical block size of the disks made here, in bytes.
const sector = 512

func writeTable(w *target, l *Layout) error {
	t := &gpt.Table{GUID: strings.ToUpper(l.GUID), ProtectiveMBR: true, LogicalSectorSize: sector,
		PhysicalSectorSize: sector}
	for _, p := range l.Partitions {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: p.Number, Name: p.Name, Type: gpt.Type(strings.ToUpper(p.Type)), GUID: strings.ToUpper(p.GUID),
			Start: uint64(p.Start / sector), End: uint64((p.Start+p.Size)/sector - 1), Size: uint64(p.Size),
			Attributes: p.attributes,
		})
	}
	return t.Write(tableFile{w}, l.Size)
}
