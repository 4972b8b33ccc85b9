package imagediff

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf16"
)

// kernelImages looks for unified kernel images on an EFI system partition, for
// their command line and kernel version. What cannot be read is a note.
func (c *collector) kernelImages(r *io.SectionReader) {
	v, err := openFAT(r)
	if err != nil {
		c.image.note("EFI system partition: %v", err)
		return
	}
	var names []string
	for _, dir := range []string{"efi/linux", "efi/boot"} {
		list, err := v.list(dir)
		if err != nil {
			c.image.note("EFI system partition: %v", err)
		}
		for _, f := range list {
			if strings.HasSuffix(f.name, ".efi") && !f.dir {
				names = append(names, path.Join(dir, f.name))
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		content, err := v.read(name, maxText*4)
		if err != nil {
			c.image.note("EFI system partition: %s: %v", name, err)
			continue
		}
		cmdline, uname := unified(content)
		if cmdline != "" || uname != "" {
			c.image.Cmdline = cmdline
			c.image.Kernels = append(c.image.Kernels, uname)
		}
	}
	slices.Sort(c.image.Kernels)
	c.image.Kernels = slices.Compact(c.image.Kernels)
}

// unified returns the texts of a unified kernel image; they are empty in other
// programs.
func unified(program []byte) (cmdline, uname string) {
	f, err := pe.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", ""
	}
	for _, s := range f.Sections {
		if s.Name != ".cmdline" && s.Name != ".uname" || s.Size > 1<<20 {
			continue
		}
		b, err := s.Data()
		if err != nil {
			continue
		}
		text := strings.TrimSpace(strings.Trim(string(b[:min(len(b), int(s.VirtualSize))]), "\x00"))
		if s.Name == ".cmdline" {
			cmdline = text
		} else {
			uname = text
		}
	}
	return cmdline, uname
}

// fatVolume reads a FAT16 or FAT32 file system, by Microsoft's "FAT32 File
// System Specification" (fatgen103). Chains are bounded by the volume.
type fatVolume struct {
	r        io.ReaderAt
	fat      []byte
	wide     bool  // FAT32
	clusters int64 // in the volume
	unit     int64 // bytes in a cluster
	data     int64 // where cluster 2 is, in bytes
	root     [2]int64
	first    uint32 // the root's first cluster; FAT32
}

const maxFAT = 64 << 20 // bytes

func openFAT(r *io.SectionReader) (*fatVolume, error) {
	le := binary.LittleEndian
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil || b[510] != 0x55 || b[511] != 0xaa {
		return nil, errors.Join(errors.New("no FAT file system"), err)
	}
	sector, fats, entries := int64(le.Uint16(b[11:])), int64(b[16]), int64(le.Uint16(b[17:]))
	reserved, size := int64(le.Uint16(b[14:])), int64(le.Uint16(b[22:]))
	v := &fatVolume{r: r, unit: sector * int64(b[13])}
	if size == 0 {
		v.wide, size, v.first = true, int64(le.Uint32(b[36:])), le.Uint32(b[44:])
	}
	if sector < 512 || sector > 4096 || v.unit == 0 || v.unit > 1<<20 || size*sector > maxFAT || fats == 0 {
		return nil, errors.New("a FAT file system with odd sizes")
	}
	v.root = [2]int64{(reserved + fats*size) * sector, entries * 32}
	v.data = v.root[0] + (v.root[1]+sector-1)/sector*sector
	v.clusters = (r.Size() - v.data) / v.unit
	if v.clusters < 4085 {
		return nil, errors.New("FAT12 is not read")
	}
	v.fat = make([]byte, size*sector)
	_, err := r.ReadAt(v.fat, reserved*sector)
	return v, err
}

// next follows a chain; ok is false at its end.
func (v *fatVolume) next(cluster uint32) (uint32, bool) {
	n, end := uint32(0), uint32(0xfff8)
	if v.wide {
		if int(cluster)*4+4 > len(v.fat) {
			return 0, false
		}
		n, end = binary.LittleEndian.Uint32(v.fat[cluster*4:])&0x0fffffff, 0x0ffffff8
	} else {
		if int(cluster)*2+2 > len(v.fat) {
			return 0, false
		}
		n = uint32(binary.LittleEndian.Uint16(v.fat[cluster*2:]))
	}
	return n, n >= 2 && n < end
}

// chain reads the clusters of a file, at most limit bytes.
func (v *fatVolume) chain(cluster uint32, limit int64) ([]byte, error) {
	var out []byte
	for n, ok := int64(0), cluster >= 2; ok && int64(len(out)) < limit; n++ {
		if int64(cluster)-2 >= v.clusters || n > v.clusters {
			return nil, errors.New("a damaged chain of clusters")
		}
		out = append(out, make([]byte, v.unit)...)
		if _, err := v.r.ReadAt(out[int64(len(out))-v.unit:], v.data+(int64(cluster)-2)*v.unit); err != nil {
			return nil, err
		}
		cluster, ok = v.next(cluster)
	}
	return out[:min(int64(len(out)), limit)], nil
}

// fatFile is a name in a directory.
type fatFile struct {
	name    string // in lower case
	dir     bool
	cluster uint32
	size    int64
}

const maxFATDir = 2 << 20 // bytes

// list reads a directory; one that is not there is empty.
func (v *fatVolume) list(dir string) ([]fatFile, error) {
	var b []byte
	var err error
	if v.wide {
		b, err = v.chain(v.first, maxFATDir)
	} else {
		b = make([]byte, v.root[1])
		_, err = v.r.ReadAt(b, v.root[0])
	}
	if err != nil {
		return nil, err
	}
	files := fatNames(b)
	if dir == "." {
		return files, nil
	}
	for name := range strings.SplitSeq(dir, "/") {
		i := slices.IndexFunc(files, func(f fatFile) bool { return f.dir && f.name == name })
		if i < 0 {
			return nil, nil
		}
		if b, err = v.chain(files[i].cluster, maxFATDir); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		files = fatNames(b)
	}
	return files, nil
}

func (v *fatVolume) read(p string, limit int64) ([]byte, error) {
	files, err := v.list(path.Dir(p))
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(files, func(f fatFile) bool { return f.name == path.Base(p) })
	if i < 0 || files[i].size > limit {
		return nil, fmt.Errorf("larger than %d MiB", limit>>20)
	}
	return v.chain(files[i].cluster, files[i].size)
}

// fatNames are the entries of a directory, with their long names.
func fatNames(b []byte) []fatFile {
	le := binary.LittleEndian
	var out []fatFile
	long := ""
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		attributes := b[11]
		switch {
		case b[0] == 0xe5:
			long = ""
			continue
		case attributes == 0x0f: // a part of a long name, the last part first
			var units []uint16
			for _, r := range [][2]int{{1, 11}, {14, 26}, {28, 32}} {
				for i := r[0]; i < r[1]; i += 2 {
					units = append(units, le.Uint16(b[i:]))
				}
			}
			if end := slices.Index(units, 0); end >= 0 {
				units = units[:end]
			}
			long = string(utf16.Decode(units)) + long
			continue
		}
		f := fatFile{
			name: long, dir: attributes&0x10 != 0, cluster: uint32(le.Uint16(b[20:]))<<16 | uint32(le.Uint16(b[26:])),
			size: int64(le.Uint32(b[28:])),
		}
		if f.name == "" {
			f.name = strings.TrimRight(string(b[:8]), " ")
			if ext := strings.TrimRight(string(b[8:11]), " "); ext != "" {
				f.name += "." + ext
			}
		}
		f.name, long = strings.ToLower(f.name), ""
		if attributes&0x08 == 0 && f.name != "." && f.name != ".." {
			out = append(out, f)
		}
	}
	return out
}
