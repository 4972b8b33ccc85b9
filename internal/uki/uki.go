// Package uki puts a kernel, its initramfs and its command line into one EFI
// program: a unified kernel image, as the UAPI group specifies it.
//
// The result is systemd's EFI stub with sections appended to it. Nothing of
// the stub moves but its header fields; time stamp, checksum and symbol table
// are cleared, so that the same parts always give the same bytes. Only 64-bit
// (PE32+) stubs are taken, and a stub that is damaged or has no room for more
// section headers is an error, never guessed at.
//
// Formats: https://uapi-group.org/specifications/specs/unified_kernel_image/
// and https://learn.microsoft.com/windows/win32/debug/pe-format.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Image is what a unified kernel image is made of. Empty parts are left out,
// but for the kernel, which must be there.
type Image struct {
	OSRelease []byte // os-release(5); boot menus take title and version from it
	Cmdline   string // kernel command line
	Uname     string // kernel version, as uname -r prints it
	Initrd    []byte // compressed cpio archive
	Linux     []byte // bzImage with its EFI stub
}

const (
	sectionHeader = 40
	maxSections   = 96 // what Windows' loader takes; EDK2 has no lower limit
	initialized   = 0x40
	readable      = 0x40000000
)

// section is one part to be appended.
type section struct {
	name string
	data []byte
}

// Build returns the EFI program made of stub and the parts of m.
func Build(stub []byte, m Image) ([]byte, error) {
	if len(m.Linux) == 0 {
		return nil, errors.New("uki: no kernel")
	}
	pe, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("uki: stub: %w", err)
	}
	var add []section
	for _, s := range []section{
		{".osrel", m.OSRelease}, {".cmdline", []byte(m.Cmdline)}, {".uname", []byte(m.Uname)},
		{".initrd", m.Initrd},
		// The kernel comes last: Linux may write beyond its own end while it
		// unpacks itself in place.
		{".linux", m.Linux},
	} {
		if len(s.data) > 0 {
			add = append(add, s)
		}
	}
	out, err := pe.append(add)
	if err != nil {
		return nil, fmt.Errorf("uki: %w", err)
	}
	return out, nil
}

// portable is a parsed PE32+ file.
type portable struct {
	raw       []byte // up to the end of the last section
	coff      int    // offset of the COFF header
	opt       int    // offset of the optional header
	table     int    // offset of the first section header
	sections  int
	fileAlign uint32
	virtAlign uint32
	headers   uint32 // SizeOfHeaders
	nextAddr  uint32 // the first address behind all sections
}

var le = binary.LittleEndian

// parse checks everything that append relies on.
func parse(b []byte) (*portable, error) {
	if len(b) < 0x40 || b[0] != 'M' || b[1] != 'Z' {
		return nil, errors.New("not an EFI program: no MZ header")
	}
	if len(b) > math.MaxInt32 {
		return nil, errors.New("larger than 2 GiB")
	}
	sig := int64(le.Uint32(b[0x3c:]))
	if sig < 0x40 || sig+24 > int64(len(b)) || string(b[sig:sig+4]) != "PE\x00\x00" {
		return nil, errors.New("not an EFI program: no PE header")
	}
	p := &portable{coff: int(sig) + 4, opt: int(sig) + 24}
	p.sections = int(le.Uint16(b[p.coff+2:]))
	optSize := int(le.Uint16(b[p.coff+16:]))
	p.table = p.opt + optSize
	if optSize < 112 || p.table+p.sections*sectionHeader > len(b) {
		return nil, errors.New("its headers are cut off")
	}
	if magic := le.Uint16(b[p.opt:]); magic != 0x20b {
		return nil, fmt.Errorf("optional header %#x, want %#x (PE32+)", magic, 0x20b)
	}
	p.virtAlign, p.fileAlign = le.Uint32(b[p.opt+32:]), le.Uint32(b[p.opt+36:])
	p.headers = le.Uint32(b[p.opt+60:])
	switch {
	case !powerOfTwo(p.virtAlign) || !powerOfTwo(p.fileAlign) || p.fileAlign > 1<<16 || p.virtAlign > 1<<24:
		return nil, fmt.Errorf("alignments %d and %d make no sense", p.virtAlign, p.fileAlign)
	case int64(p.headers) > int64(len(b)) || int64(p.headers) < int64(p.table+p.sections*sectionHeader):
		return nil, fmt.Errorf("header size %d does not fit the file", p.headers)
	case p.sections == 0:
		return nil, errors.New("it has no sections")
	}
	return p, p.readSections(b)
}

func (p *portable) readSections(b []byte) error {
	end := uint64(p.headers)
	var addr uint64
	for i := range p.sections {
		h := b[p.table+i*sectionHeader:][:sectionHeader]
		size, at := uint64(le.Uint32(h[8:])), uint64(le.Uint32(h[12:]))
		raw, off := uint64(le.Uint32(h[16:])), uint64(le.Uint32(h[20:]))
		if raw > 0 && (off < uint64(p.headers) || off+raw > uint64(len(b))) {
			return fmt.Errorf("section %d lies outside the file", i+1)
		}
		if at < addr {
			return fmt.Errorf("section %d overlaps the one before it", i+1)
		}
		for _, s := range added {
			if string(h[:8]) == padName(s) {
				return fmt.Errorf("it already has a section %s", s)
			}
		}
		if size == 0 {
			size = raw
		}
		addr = at + size // the padding in the file is not part of it
		end = max(end, off+raw)
	}
	if addr > math.MaxInt32 {
		return errors.New("its sections reach beyond 2 GiB")
	}
	p.nextAddr = uint32(addr)
	// What follows the last section is the symbol table or a signature; a
	// changed file has no use for either.
	p.raw = b[:end]
	return nil
}

var added = []string{".osrel", ".cmdline", ".uname", ".initrd", ".linux"}

func padName(s string) string { return (s + "\x00\x00\x00\x00\x00\x00\x00\x00")[:8] }

func powerOfTwo(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// append returns the program with more sections.
func (p *portable) append(add []section) ([]byte, error) {
	tableEnd := p.table + (p.sections+len(add))*sectionHeader
	if tableEnd > int(p.headers) || p.sections+len(add) > maxSections {
		return nil, fmt.Errorf("stub: no room for %d more section headers", len(add))
	}
	total := uint64(len(p.raw))
	for _, s := range add {
		total += uint64(len(s.data)) + uint64(p.fileAlign) + uint64(p.virtAlign)
	}
	if total+uint64(p.nextAddr) > math.MaxInt32 {
		return nil, errors.New("the parts are larger than 2 GiB together")
	}
	out := make([]byte, len(p.raw), total)
	copy(out, p.raw)
	clear(out[p.table+p.sections*sectionHeader : p.headers])
	addr := p.nextAddr
	for i, s := range add {
		out = padded(out, p.fileAlign)
		addr = alignUp(addr, max(p.virtAlign, 4096))
		h := out[p.table+(p.sections+i)*sectionHeader:]
		copy(h, padName(s.name))
		le.PutUint32(h[8:], uint32(len(s.data)))
		le.PutUint32(h[12:], addr)
		le.PutUint32(h[16:], alignUp(uint32(len(s.data)), p.fileAlign))
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], initialized|readable)
		out = append(out, s.data...)
		addr += uint32(len(s.data))
	}
	out = padded(out, p.fileAlign)
	p.patch(out, len(add), addr)
	return out, nil
}

func (p *portable) patch(out []byte, more int, addr uint32) {
	le.PutUint16(out[p.coff+2:], uint16(p.sections+more))
	le.PutUint32(out[p.coff+4:], 0) // TimeDateStamp
	le.PutUint64(out[p.coff+8:], 0) // PointerToSymbolTable, NumberOfSymbols
	le.PutUint32(out[p.opt+64:], 0) // CheckSum
	le.PutUint32(out[p.opt+56:], alignUp(addr, p.virtAlign))
	// The fifth data directory is the signature; it lay behind the sections.
	if dirs := le.Uint32(out[p.opt+108:]); dirs > 4 && p.opt+112+5*8 <= p.table {
		clear(out[p.opt+112+4*8 : p.opt+112+5*8])
	}
}

func alignUp(n, unit uint32) uint32 { return (n + unit - 1) &^ (unit - 1) }

func padded(b []byte, unit uint32) []byte {
	return append(b, make([]byte, alignUp(uint32(len(b)), unit)-uint32(len(b)))...)
}
