// Package vhd makes fixed virtual hard disks of raw ones: the disk itself with
// a footer behind it (Microsoft, "Virtual Hard Disk Image Format
// Specification", version 1.0). Azure and Hyper-V take them.
//
// The same disk always gives the same bytes: the footer's time is zero and its
// identifier comes from the caller.
package vhd

import (
	"encoding/binary"
	"fmt"
	"os"
)

const (
	footerSize = 512
	// Unit is what the virtual size of a disk is rounded up to: Azure takes
	// whole mebibytes only.
	Unit = 1 << 20
	// MaxSize is the largest disk the format holds, in bytes.
	MaxSize = 2040 << 30
)

// Append makes the raw disk in f, size bytes long, a fixed VHD: it rounds its
// size up and writes the footer. id is the disk's identifier.
func Append(f *os.File, size int64, id [16]byte) error {
	size = (size + Unit - 1) / Unit * Unit
	if size > MaxSize {
		return fmt.Errorf("vhd: a disk of %d bytes is larger than the format's %d", size, int64(MaxSize))
	}
	if err := f.Truncate(size); err != nil {
		return err
	}
	_, err := f.WriteAt(footer(size, id), size)
	return err
}

func footer(size int64, id [16]byte) []byte {
	b := make([]byte, footerSize)
	be := binary.BigEndian
	copy(b, "conectix")
	be.PutUint32(b[8:], 2)           // features: reserved bit, always set
	be.PutUint32(b[12:], 0x00010000) // version 1.0
	be.PutUint64(b[16:], 1<<64-1)    // no further structure: fixed
	// The creator decides how readers take the size: with "win " it is the
	// number below, with most others it is computed from the geometry.
	copy(b[28:], "win ")
	be.PutUint32(b[32:], 0x00060001)
	copy(b[36:], "Wi2k")
	be.PutUint64(b[40:], uint64(size))
	be.PutUint64(b[48:], uint64(size))
	c, h, s := geometry(size / 512)
	be.PutUint16(b[56:], c)
	b[58], b[59] = h, s
	be.PutUint32(b[60:], 2) // fixed
	copy(b[68:], id[:])
	var sum uint32
	for _, v := range b {
		sum += uint32(v)
	}
	be.PutUint32(b[64:], ^sum)
	return b
}

// geometry is the specification's appendix "CHS Calculation".
func geometry(sectors int64) (cylinders uint16, heads, perTrack byte) {
	sectors = min(sectors, 65535*16*255)
	if sectors >= 65535*16*63 {
		return uint16(sectors / 255 / 16), 16, 255
	}
	spt := int64(17)
	cth := sectors / spt
	h := max((cth+1023)/1024, 4)
	if cth >= h*1024 || h > 16 {
		spt, h = 31, 16
		cth = sectors / spt
	}
	if cth >= h*1024 {
		spt, h = 63, 16
		cth = sectors / spt
	}
	return uint16(cth / h), byte(h), byte(spt)
}
