package testbedtest

import (
	"encoding/binary"
	"io"
	"slices"

	"goldsmith/internal/fat"
	"goldsmith/internal/tree"
)

// Guest is what a test machine does when it starts: it prints Text on its
// first serial port, and then switches itself off, or resets itself, or waits
// for the power button, to switch itself off then; while it waits it prints
// what is typed on the serial port. It needs a Q35 machine and no operating
// system, and is there a second after power-on.
type Guest struct {
	Text  string // at most 300 bytes
	Off   bool   // switch off at once
	Reset bool   // reset at once
	// Count also prints how many hard disks there are, a digit; under BIOS only.
	Count bool
	// Shell has a Fake offer a root shell of this host on its serial port; others
	// do not know it.
	Shell bool
}

// diskSize is enough for a boot sector and round enough for every driver.
const diskSize = 1 << 20

// Where the text is in the boot sector, where its end, where what Fake goes
// by, and where BIOS puts the sector.
const (
	textOffset = 0x80
	textEnd    = 438
	modeOffset = 439
	loadedAt   = 0x7c00
)

// What is at modeOffset.
const (
	modeOff = 1 << iota
	modeReset
	modeCount
	modeShell
)

// BIOSDisk is a raw disk with the guest in its boot sector. The guest also
// writes to the first disk, so that a driver that lets it reach the image is
// found.
func (g Guest) BIOSDisk() []byte {
	disk := make([]byte, diskSize)
	copy(disk, g.sector())
	return disk
}

// put prints al on COM1.
var put = []byte{
	0x88, 0xc4, // mov ah, al
	0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status of COM1
	0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
	0x88, 0xe0, // mov al, ah
	0xba, 0xf8, 0x03, // mov dx, 0x3f8
	0xee, // out dx, al
}

// sector is the guest's boot sector. It runs as what PXE loads, too.
func (g Guest) sector() []byte {
	code := slices.Concat([]byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // mov ds, ax; mov es, ax; mov ss, ax
		0xbc, 0x00, 0x7c, // mov sp, 0x7c00
		0xfb,                                     // sti
		0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // mov dx, 0x602; mov ax, 0x100; out dx, ax: PM1_EN, power button
		0xbe, textOffset, loadedAt >> 8, // mov si, text
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x12, // jz done
	}, put, []byte{
		0xeb, 0xe9, // jmp next; done:
	})
	mode := byte(0)
	if g.Shell {
		mode |= modeShell
	}
	if g.Count {
		mode |= modeCount
		code = slices.Concat(code, []byte{0xa0, 0x75, 0x04, 0x04, '0'}, put) // mov al, [0x475]; add al, '0'
	}
	code = append(code,
		0xb8, 0x01, 0x03, 0xb9, 0x02, 0x00, // mov ax, 0x301; mov cx, 2: write sector 2
		0xba, 0x80, 0x00, 0xbb, 0x00, 0x7c, // mov dx, 0x80; mov bx, 0x7c00: the first disk, from here
		0xcd, 0x13) // int 0x13
	switch {
	case g.Off:
		mode |= modeOff
	case g.Reset:
		mode |= modeReset
		code = append(code, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe) // mov dx, 0xcf9; mov al, 6; out dx, al; jmp here
	default:
		code = append(code,
			0xfb, 0xf4, // loop: sti; hlt
			0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0x06, // typed: mov dx, 0x3fd; in al, dx; test al, 1; jz power
			0xb2, 0xf8, 0xec, 0xee, // mov dl, 0xf8; in al, dx; out dx, al
			0xeb, 0xf2, // jmp typed
			0xba, 0x00, 0x06, 0xed, // power: mov dx, 0x600; in ax, dx: PM1_STS
			0xf6, 0xc4, 0x01, 0x74, 0xe7) // test ah, 1; jz loop
	}
	code = append(code,
		0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // mov dx, 0x604; mov ax, 0x2000; out dx, ax: PM1_CNT, S5
		0xf4, 0xeb, 0xfd) // hlt; jmp back
	b := make([]byte, 512)
	copy(b, code)
	copy(b[textOffset:textEnd], g.Text)
	b[modeOffset] = mode
	b[510], b[511] = 0x55, 0xaa
	return b
}

// UEFIDisk is a raw disk that is an EFI system partition as a whole, with the
// guest as its boot loader.
func (g Guest) UEFIDisk() ([]byte, error) {
	t := tree.New()
	t.AddFile("EFI/BOOT/BOOTX64.EFI", 0o644, g.efi())
	var disk buffer
	if _, err := fat.Write(&disk, t, fat.Options{Size: 34 << 20, Label: "ESP"}); err != nil {
		return nil, err
	}
	return disk, nil
}

// NetworkLoader is the guest as a file that PXE loads under BIOS.
func (g Guest) NetworkLoader() []byte { return g.sector() }

// BIOSCD is a CD that starts the guest under BIOS.
func (g Guest) BIOSCD() []byte { return elTorito(0, g.sector()) }

// UEFICD is a CD that starts the guest under UEFI.
func (g Guest) UEFICD() ([]byte, error) {
	disk, err := g.UEFIDisk()
	return elTorito(0xef, disk), err
}

// elTorito is a CD with no files: only what a firmware reads to start image
// without emulation of a disk ("El Torito" Bootable CD-ROM Format
// Specification 1.0, sections 2 and 3). platform is 0 for BIOS, 0xef for UEFI.
func elTorito(platform byte, image []byte) []byte {
	const sector, first, catalog, start = 2048, 16, 19, 20
	le := binary.LittleEndian
	b := make([]byte, start*sector+max(len(image), 32*sector))
	primary := b[first*sector:]
	copy(primary, "\x01CD001\x01")
	size := uint32(len(b) / sector)
	le.PutUint32(primary[80:], size)
	binary.BigEndian.PutUint32(primary[84:], size)
	le.PutUint16(primary[128:], sector)
	binary.BigEndian.PutUint16(primary[130:], sector)
	boot := b[(first+1)*sector:]
	copy(boot, "\x00CD001\x01EL TORITO SPECIFICATION")
	le.PutUint32(boot[0x47:], catalog)
	copy(b[(first+2)*sector:], "\xffCD001\x01")
	c := b[catalog*sector:]
	c[0], c[1], c[0x1e], c[0x1f] = 1, platform, 0x55, 0xaa
	var sum uint16
	for i := 0; i < 32; i += 2 {
		sum += le.Uint16(c[i:])
	}
	le.PutUint16(c[0x1c:], -sum)
	c[0x20] = 0x88 // bootable
	if platform == 0 {
		le.PutUint16(c[0x26:], 4) // one sector of 2048 bytes; UEFI takes 0 as all that follows
	}
	le.PutUint32(c[0x28:], start)
	copy(b[start*sector:], image)
	return b
}

// efi is the guest as a PE image for x86-64: headers and one section.
func (g Guest) efi() []byte {
	code := []byte{
		0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [rip+text]
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x14, // jz done
		0x88, 0xc4, // mov ah, al
		0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
		0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
		0x88, 0xe0, // mov al, ah
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // out dx, al
		0xeb, 0xe7, // jmp next
	}
	switch {
	case g.Off:
	case g.Reset:
		code = append(code, 0x66, 0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee, 0xeb, 0xfe)
	default:
		// Without interrupts: otherwise the firmware reads what is typed.
		code = append(code,
			0xfa,                                                       // cli
			0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, 0x66, 0xef, // PM1_EN, power button
			0xf3, 0x90, // loop: pause
			0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0x06, // typed: line status; jz power
			0xb2, 0xf8, 0xec, 0xee, 0xeb, 0xf1, // print it; jmp typed
			0x66, 0xba, 0x00, 0x06, 0x66, 0xed, // power: PM1_STS
			0xf6, 0xc4, 0x01, 0x74, 0xe4) // test ah, 1; jz loop
	}
	code = append(code,
		0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, // PM1_CNT, S5
		0xf4, 0xeb, 0xfd) // hlt; jmp back
	le := binary.LittleEndian
	le.PutUint32(code[3:], uint32(len(code)-7))
	code = append(append(code, g.Text...), 0)

	const headers, page = 0x200, 0x1000
	b := make([]byte, headers+0x400)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	le.PutUint16(b[0x44:], 0x8664) // machine
	le.PutUint16(b[0x46:], 1)      // sections
	le.PutUint16(b[0x54:], 0xf0)   // length of the optional header
	le.PutUint16(b[0x56:], 0x22)   // executable, large addresses
	o := b[0x58:]
	le.PutUint16(o[0:], 0x20b)    // PE32+
	le.PutUint32(o[4:], 0x400)    // size of code
	le.PutUint32(o[16:], page)    // entry point
	le.PutUint32(o[20:], page)    // base of code
	le.PutUint32(o[32:], page)    // section alignment
	le.PutUint32(o[36:], headers) // file alignment
	le.PutUint32(o[56:], 2*page)  // size of image
	le.PutUint32(o[60:], headers) // size of headers
	le.PutUint16(o[68:], 10)      // EFI application
	le.PutUint32(o[108:], 16)     // directories, all empty
	s := b[0x58+0xf0:]
	copy(s, ".text")
	le.PutUint32(s[8:], 0x400)
	le.PutUint32(s[12:], page)
	le.PutUint32(s[16:], 0x400)
	le.PutUint32(s[20:], headers)
	le.PutUint32(s[36:], 0x60000020) // code, executable, readable
	copy(b[headers:], code)
	return b
}

// buffer is a disk in memory that grows.
type buffer []byte

var _ io.WriterAt = (*buffer)(nil)

func (d *buffer) WriteAt(p []byte, off int64) (int, error) {
	if more := off + int64(len(p)) - int64(len(*d)); more > 0 {
		*d = append(*d, make([]byte, more)...)
	}
	return copy((*d)[off:], p), nil
}
