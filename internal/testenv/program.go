package testenv

import "encoding/binary"

// EFIProgram is a program for UEFI firmware with one section, room in its
// headers for more of them, and no signature: the least that passes for
// systemd's EFI stub. Format: Microsoft's "PE Format".
func EFIProgram() []byte {
	const headers, align = 0x400, 0x200 // bytes
	le := binary.LittleEndian
	b := make([]byte, headers+align)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	coff := b[0x84:]
	le.PutUint16(coff, 0x8664)   // x86-64
	le.PutUint16(coff[2:], 1)    // sections
	le.PutUint16(coff[16:], 240) // length of the optional header
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b) // PE32+
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], align)
	le.PutUint32(opt[56:], 0x2000) // in memory
	le.PutUint32(opt[60:], headers)
	le.PutUint16(opt[68:], 10)  // an EFI application
	le.PutUint32(opt[108:], 16) // data directories
	section := opt[240:]
	copy(section, ".text")
	for i, n := range []uint32{align, 0x1000, align, headers} { // in memory, there; in the file, there
		le.PutUint32(section[8+4*i:], n)
	}
	return b
}
