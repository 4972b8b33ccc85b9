package testbedtest

import (
	"encoding/binary"
	"io"

	"goldsmith/internal/fat"
	"goldsmith/internal/tree"
)

// Guest is what a test machine does when it starts: it prints Text on its
// first serial port, and then waits for the power button to switch itself off,
// or does that at once. It needs a Q35 machine and no operating system, and
// is there a second after power-on.
type Guest struct {
	Text string // at most 300 bytes
	Off  bool   // switch off at once
}

// diskSize is enough for a boot sector and round enough for every driver.
const diskSize = 1 << 20

// Where the text is in the boot sector, and where BIOS puts that.
const (
	textOffset = 0x60
	loadedAt   = 0x7c00
)

// BIOSDisk is a raw disk with the guest in its boot sector. The guest also
// writes to its disk, so that a driver that lets it reach the image is found.
func (g Guest) BIOSDisk() []byte {
	disk := make([]byte, diskSize)
	code := []byte{
		0xfa,       // cli
		0x31, 0xc0, // xor ax, ax
		0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, // mov ds, ax; mov es, ax; mov ss, ax
		0xbc, 0x00, 0x7c, // mov sp, 0x7c00
		0xfb,                            // sti
		0xbe, textOffset, loadedAt >> 8, // mov si, text
		0xac,       // next: lodsb
		0x84, 0xc0, // test al, al
		0x74, 0x12, // jz done
		0x88, 0xc4, // mov ah, al
		0xba, 0xfd, 0x03, // mov dx, 0x3fd: line status of COM1
		0xec, 0xa8, 0x20, 0x74, 0xfb, // wait: in al, dx; test al, 0x20; jz wait
		0x88, 0xe0, // mov al, ah
		0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xee,       // out dx, al
		0xeb, 0xe9, // jmp next
		0xb8, 0x01, 0x03, 0xb9, 0x02, 0x00, // done: mov ax, 0x301; mov cx, 2: write sector 2
		0xba, 0x80, 0x00, 0xbb, 0x00, 0x7c, // mov dx, 0x80; mov bx, 0x7c00: the first disk, from here
		0xcd, 0x13, // int 0x13
		0x90, 0x90, // nop; nop, or jmp off
		0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // mov dx, 0x602; mov ax, 0x100; out dx, ax: PM1_EN, power button
		0xfb, 0xf4, // loop: sti; hlt
		0xba, 0x00, 0x06, 0xed, // mov dx, 0x600; in ax, dx: PM1_STS
		0xf6, 0xc4, 0x01, 0x74, 0xf5, // test ah, 1; jz loop
		0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // off: mov dx, 0x604; mov ax, 0x2000; out dx, ax: PM1_CNT, S5
		0xf4, 0xeb, 0xfd, // hlt; jmp back
	}
	if g.Off {
		copy(code[0x35:], []byte{0xeb, 0x12})
	}
	copy(disk, code)
	copy(disk[textOffset:440], g.Text)
	disk[510], disk[511] = 0x55, 0xaa
	return disk
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
		0x90, 0x90, // done: nop; nop, or jmp off
		0x66, 0xba, 0x02, 0x06, 0x66, 0xb8, 0x00, 0x01, 0x66, 0xef, // PM1_EN, power button
		0xf4,                               // loop: hlt; the firmware's timer wakes us
		0x66, 0xba, 0x00, 0x06, 0x66, 0xed, // PM1_STS
		0xf6, 0xc4, 0x01, 0x74, 0xf4, // test ah, 1; jz loop
		0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, // off: PM1_CNT, S5
		0xf4, 0xeb, 0xfd, // hlt; jmp back
	}
	const done, off = 0x20, 0x20 + 2 + 10 + 12
	if g.Off {
		copy(code[done:], []byte{0xeb, off - done - 2})
	}
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
