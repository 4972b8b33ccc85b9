package fat

import (
	"encoding/binary"
)

const (
	media       = 0xf8 // fixed disk
	infoSector  = 1    // FAT32: where the FSInfo sector is
	backupBoot  = 6    // FAT32: where the copies of boot and FSInfo sector begin
	bootTrailer = 0xaa55
)

// writeBoot writes the boot sector and, for FAT32, the FSInfo sector and the
// copies of both.
func (v *volume) writeBoot(root *node) error {
	boot := v.bootSector(root)
	if err := v.at(0, boot); err != nil || v.layout.kind != 32 {
		return err
	}
	info := v.infoSector()
	for _, s := range []struct {
		at int64
		b  []byte
	}{{infoSector, info}, {backupBoot, boot}, {backupBoot + infoSector, info}} {
		if err := v.at(s.at, s.b); err != nil {
			return err
		}
	}
	return nil
}

// bootSector is the BIOS parameter block and a boot program that hands back to
// the firmware.
func (v *volume) bootSector(root *node) []byte {
	l, le := v.layout, binary.LittleEndian
	b := make([]byte, sectorSize)
	copy(b[3:], "MSWIN4.1") // the name that the specification advises
	le.PutUint16(b[11:], sectorSize)
	b[13] = byte(l.perCluster)
	le.PutUint16(b[14:], uint16(l.reserved))
	b[16] = fatCopies
	le.PutUint16(b[17:], uint16(l.rootEntries))
	if l.kind != 32 && l.total < 1<<16 {
		le.PutUint16(b[19:], uint16(l.total))
	} else {
		le.PutUint32(b[32:], uint32(l.total))
	}
	b[21] = media
	tracks, heads := geometry(l.total)
	le.PutUint16(b[24:], tracks)
	le.PutUint16(b[26:], heads)
	extended := 36 // where drive number, serial number, label and type name are
	if l.kind == 32 {
		le.PutUint32(b[36:], uint32(l.fatSectors))
		le.PutUint32(b[44:], root.cluster)
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], backupBoot)
		extended = 64
	} else {
		le.PutUint16(b[22:], uint16(l.fatSectors))
	}
	b[extended] = 0x80   // drive number
	b[extended+2] = 0x29 // the next three fields are there
	le.PutUint32(b[extended+3:], v.options.VolumeID)
	copy(b[extended+7:], v.label[:])
	copy(b[extended+18:], map[int]string{12: "FAT12   ", 16: "FAT16   ", 32: "FAT32   "}[l.kind])
	code := extended + 26
	copy(b, []byte{0xeb, byte(code - 2), 0x90})          // jump there
	copy(b[code:], []byte{0xcd, 0x18, 0xf4, 0xeb, 0xfd}) // int 0x18; hlt; jump back
	le.PutUint16(b[510:], bootTrailer)
	return b
}

// geometry is a number of sectors a track that divides total, as some tools
// insist, and a number of heads. Nothing that reads the volume uses them.
func geometry(total int64) (tracks, heads uint16) {
	for tracks = 32; total%int64(tracks) != 0; tracks /= 2 {
	}
	return tracks, 64
}

// infoSector tells FAT32 drivers how much is free.
func (v *volume) infoSector() []byte {
	le := binary.LittleEndian
	b := make([]byte, sectorSize)
	le.PutUint32(b[0:], 0x41615252)
	le.PutUint32(b[484:], 0x61417272)
	free := v.layout.clusters - v.used
	le.PutUint32(b[488:], uint32(free))
	next := uint32(v.used + 2)
	if free == 0 {
		next = 0xffffffff // unknown
	}
	le.PutUint32(b[492:], next)
	le.PutUint16(b[510:], bootTrailer)
	return b
}

// writeTables writes both copies of the allocation table, up to the last
// cluster in use: free clusters are zeros.
func (v *volume) writeTables(root *node) error {
	t := v.table(root)
	for i := range int64(fatCopies) {
		if err := v.at(v.layout.reserved+i*v.layout.fatSectors, t); err != nil {
			return err
		}
	}
	return nil
}

// table is the used part of the allocation table. Its first two values hold
// the media byte and the marks "unmounted cleanly, no errors".
func (v *volume) table(root *node) []byte {
	end := map[int]uint32{12: 0xfff, 16: 0xffff, 32: 0x0fffffff}[v.layout.kind]
	next := make([]uint32, 2, v.used+2)
	next[0], next[1] = end&^0xff|media, end
	_ = root.walk(func(n *node) error {
		for i := range n.clusters {
			if i == n.clusters-1 {
				next = append(next, end)
			} else {
				next = append(next, n.cluster+uint32(i)+1)
			}
		}
		return nil
	})
	le := binary.LittleEndian
	b := make([]byte, 0, 4*len(next))
	switch v.layout.kind {
	case 12: // two values in three bytes
		for i := 0; i < len(next); i += 2 {
			pair := next[i]
			if i+1 < len(next) {
				pair |= next[i+1] << 12
			}
			b = append(b, byte(pair), byte(pair>>8), byte(pair>>16))
		}
		b = b[:(len(next)*12+7)/8]
	case 16:
		for _, n := range next {
			b = le.AppendUint16(b, uint16(n))
		}
	case 32:
		for _, n := range next {
			b = le.AppendUint32(b, n)
		}
	}
	return b
}
