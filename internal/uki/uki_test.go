package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

// stub makes a PE32+ program with one section and room for more headers.
func stub() []byte {
	const headers, align = 0x400, 0x200
	b := make([]byte, headers+align)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x80)
	copy(b[0x80:], "PE\x00\x00")
	coff := b[0x84:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint32(coff[4:], 0x12345678) // time
	le.PutUint32(coff[8:], headers+align)
	le.PutUint32(coff[12:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22e)
	opt := b[0x98:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 0x1000)
	le.PutUint32(opt[36:], align)
	le.PutUint32(opt[56:], 0x2000)
	le.PutUint32(opt[60:], headers)
	le.PutUint32(opt[64:], 0xdeadbeef) // checksum
	le.PutUint32(opt[108:], 16)
	le.PutUint64(opt[112+32:], 0x1111222233334444) // signature
	sec := b[0x98+240:]
	copy(sec, ".text")
	le.PutUint32(sec[8:], 0x20)
	le.PutUint32(sec[12:], 0x1000)
	le.PutUint32(sec[16:], align)
	le.PutUint32(sec[20:], headers)
	le.PutUint32(sec[36:], 0x60000020)
	copy(b[headers:], "code")
	return append(b, "symbol table"...)
}

var parts = Image{
	OSRelease: []byte("ID=test\n"), Cmdline: "root=x", Uname: "6.1", Initrd: bytes.Repeat([]byte("i"), 5000), Linux: bytes.Repeat([]byte("k"), 9000),
}

func TestBuild(t *testing.T) {
	out, err := Build(stub(), parts)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Build(stub(), parts)
	if err != nil || !bytes.Equal(out, again) {
		t.Errorf("two builds differ (%v)", err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{".osrel": "ID=test\n", ".cmdline": "root=x", ".uname": "6.1",
		".initrd": string(parts.Initrd), ".linux": string(parts.Linux)}
	var end uint32
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%0x1000 != 0 {
			t.Errorf("%s is at %#x, the one before ends at %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + s.VirtualSize
		if w, ok := want[s.Name]; ok {
			data, err := s.Data()
			if err != nil || string(data[:s.VirtualSize]) != w {
				t.Errorf("%s has other content (%v)", s.Name, err)
			}
			delete(want, s.Name)
		}
	}
	if len(want) != 0 {
		t.Errorf("sections are missing: %v", want)
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	if f.TimeDateStamp != 0 || f.PointerToSymbolTable != 0 || f.NumberOfSymbols != 0 || opt.CheckSum != 0 || opt.DataDirectory[4].Size != 0 {
		t.Error("time, symbols, checksum or signature are left")
	}
	if opt.SizeOfImage < end || opt.SizeOfImage%0x1000 != 0 {
		t.Errorf("SizeOfImage %#x, the last section ends at %#x", opt.SizeOfImage, end)
	}
	if last := f.Sections[len(f.Sections)-1]; last.Name != ".linux" {
		t.Errorf("%s is the last section, not the kernel", last.Name)
	}
}

func TestEmptyPartsAreLeftOut(t *testing.T) {
	out, err := Build(stub(), Image{Linux: []byte("k")})
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(out))
	if err != nil || len(f.Sections) != 2 {
		t.Errorf("%d sections (%v)", len(f.Sections), err)
	}
}

func TestParse(t *testing.T) {
	out, err := Build(stub(), parts)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(out)
	if err != nil || !reflect.DeepEqual(got, parts) {
		t.Errorf("Parse = %+v, %v", got, err)
	}
	for name, bad := range map[string][]byte{"no kernel": stub(), "nothing": nil, "cut": out[:len(out)-len(parts.Linux)-0x200]} {
		if got, err := Parse(bad); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	out, _ := Build(stub(), parts)
	f.Add(out)
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := Parse(b); err == nil && len(m.Linux) == 0 {
			t.Error("no kernel")
		}
	})
}

func TestRefusals(t *testing.T) {
	put16 := func(off int, v uint16) func([]byte) { return func(b []byte) { le.PutUint16(b[off:], v) } }
	put32 := func(off int, v uint32) func([]byte) { return func(b []byte) { le.PutUint32(b[off:], v) } }
	const coff, opt, sec = 0x84, 0x98, 0x98 + 240
	for _, c := range []struct {
		name   string
		damage func([]byte)
		want   string
	}{
		{"no MZ", put16(0, 0), "MZ"},
		{"no PE", put32(0x3c, 0xffffffff), "PE"},
		{"PE at 0", put32(0x3c, 0), "PE"},
		{"PE32", put16(opt, 0x10b), "PE32+"},
		{"short optional header", put16(coff+16, 10), "cut off"},
		{"many sections", put16(coff+2, 0xffff), "cut off"},
		{"no sections", put16(coff+2, 0), "no sections"},
		{"alignment 0", put32(opt+36, 0), "make no sense"},
		{"alignment 3", put32(opt+32, 3), "make no sense"},
		{"headers beyond the file", put32(opt+60, 1<<30), "header size"},
		{"headers too short", put32(opt+60, 16), "header size"},
		{"no room", put32(opt+60, sec+40), "no room"},
		{"section outside", put32(sec+20, 1<<20), "outside"},
		{"section in headers", put32(sec+20, 0), "outside"},
		{"section at 2 GiB", put32(sec+12, 0x7fffffff), "2 GiB"},
		{"already a UKI", func(b []byte) { copy(b[sec:], ".linux\x00\x00") }, "already"},
	} {
		b := stub()
		c.damage(b)
		if _, err := Build(b, parts); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want an error about %q", c.name, err, c.want)
		}
	}
	if _, err := Build(stub(), Image{}); err == nil {
		t.Error("an image without a kernel was made")
	}
}

func FuzzBuild(f *testing.F) {
	f.Add(stub())
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := Build(b, parts)
		if err != nil {
			return
		}
		// What is accepted must be sound enough for another reader, and must
		// be refused as a stub of a second image.
		if n := binary.LittleEndian.Uint16(out[int(le.Uint32(out[0x3c:]))+6:]); n < 6 {
			t.Errorf("%d sections", n)
		}
		if _, err := Build(out, parts); err == nil {
			t.Error("an image was taken as a stub")
		}
	})
}
