package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/erofs"
	"goldsmith/internal/verity"
	"goldsmith/internal/verity/superblock"
)

// ManifestFile is where an image keeps its own manifest, in its root.
const ManifestFile = "usr/share/goldsmith/manifest.json"

// Report is what [Inspect] found in an image. Sizes are in bytes.
type Report struct {
	Path       string            `json:"path"`
	Size       int64             `json:"size"`
	Data       int64             `json:"data"` // what the file takes where it lies, without holes
	GUID       string            `json:"disk_guid,omitempty"`
	Partitions []Partition       `json:"partitions,omitempty"`
	OS         map[string]string `json:"os,omitempty"`       // os-release of the root
	Manifest   json.RawMessage   `json:"manifest,omitempty"` // ManifestFile, as it is
	Packages   []dpkg.Package    `json:"packages,omitempty"`
	Notes      []string          `json:"notes,omitempty"` // what could not be read, and why

	stuck bool // no more roots are read
}

// maxText bounds every file that Inspect reads from an image, in bytes.
const maxText = 64 << 20

// Inspect reads a raw disk image, or a bare EROFS file system. The image may be
// anyone's: what is there is reported, what cannot be understood is a note.
// Only a file that holds neither is an error.
func Inspect(path string) (*Report, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", path, err), "")
	}
	// To open a pipe would wait for its other end.
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFREG && kind != unix.S_IFBLK {
		return nil, command.BadInput(fmt.Errorf("%s: neither a file nor a disk", path), "")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, command.BadInput(err, "")
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // for devices, too
	if err != nil {
		return nil, fmt.Errorf("size of %s: %w", path, err)
	}
	r := &Report{Path: path, Size: size, Data: st.Blocks * 512}
	t, err := gpt.Read(f, size, sector)
	if err != nil {
		return r.bare(f, err)
	}
	r.GUID = t.GUID
	if t.Backup {
		r.note("the primary partition table is damaged; this is the backup")
	}
	for _, p := range t.Partitions {
		q := Partition{Number: p.Number, Name: p.Name, Type: p.Type, GUID: p.GUID, Start: p.Start, Size: p.Size,
			attributes: p.Attributes}
		part := io.NewSectionReader(f, p.Start, p.Size)
		probe(&q, part)
		if q.Filesystem == "erofs" && r.OS == nil && r.Packages == nil && !r.stuck {
			r.readRoot(part, q.Name)
		}
		r.Partitions = append(r.Partitions, q)
	}
	return r, nil
}

func (r *Report) note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// bare reports a file without a partition table.
func (r *Report) bare(f *os.File, tableErr error) (*Report, error) {
	p := Partition{Size: r.Size}
	whole := io.NewSectionReader(f, 0, r.Size)
	probe(&p, whole)
	if p.Filesystem == "" {
		if kind := container(whole); kind != "" {
			return nil, command.BadInput(fmt.Errorf("%s: a %s, not a raw disk image", r.Path, kind), "")
		}
		return nil, command.BadInput(fmt.Errorf("%s: %w", r.Path, tableErr), "")
	}
	r.note("no partition table, only a file system")
	if p.Filesystem == "erofs" {
		r.readRoot(whole, "the file system")
	}
	r.Partitions = []Partition{p}
	return r, nil
}

// usualRootTime is how long it may take to read what an image says about
// itself: files of some MiB.
const usualRootTime = time.Minute

var rootTime = usualRootTime

// readRoot reads what the image says about itself. The reader of the file
// system is not ours and the file system may be hostile: whatever happens
// becomes a note. A reader that finds no end goes on until the image is closed.
func (r *Report) readRoot(part *io.SectionReader, name string) {
	found := make(chan *Report, 1)
	go func() {
		root := &Report{}
		defer func() {
			if p := recover(); p != nil {
				root.note("%s: its file system is damaged", name)
			}
			found <- root
		}()
		root.lookInto(part, name)
	}()
	select {
	case root := <-found:
		r.OS, r.Packages = root.OS, root.Packages
		if root.Manifest != nil {
			r.Manifest = root.Manifest
		}
		r.Notes = append(r.Notes, root.Notes...)
	case <-time.After(rootTime):
		r.stuck = true // there may be many more
		r.note("%s: its file system could not be read in %s", name, rootTime)
	}
}

// lookInto is readRoot for a file system that can be read.
func (r *Report) lookInto(part *io.SectionReader, name string) {
	root, err := goerofs.Open(part)
	if err != nil {
		r.note("%s: %v", name, err)
		return
	}
	for _, p := range []string{"usr/lib/os-release", "etc/os-release"} {
		if text := r.read(root, p); text != nil {
			r.OS = parseOSRelease(string(text))
			break
		}
	}
	if text := r.read(root, ManifestFile); text != nil {
		if json.Valid(text) {
			r.Manifest = text
		} else {
			r.note("%s is not JSON", ManifestFile)
		}
	}
	if text := r.read(root, dpkg.StatusFile); text != nil {
		if r.Packages, err = dpkg.Installed(strings.NewReader(string(text))); err != nil {
			r.note("%v", err)
		}
	}
}

// read returns a file's content, or nil when there is none.
func (r *Report) read(root fs.FS, name string) []byte {
	f, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.note("%s: %v", name, err)
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxText+1))
	if err == nil && len(text) > maxText {
		err = fmt.Errorf("larger than %d MiB", maxText>>20)
	}
	if err != nil {
		r.note("%s: %v", name, err)
		return nil
	}
	return text
}

// parseOSRelease reads os-release(5) without the shell's finer points.
func parseOSRelease(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && key != "" && key[0] != '#' {
			m[key] = strings.Trim(value, `"'`)
		}
	}
	return m
}

// probe finds out what file system a partition holds and how full it is.
func probe(p *Partition, r io.ReaderAt) {
	head := make([]byte, 4096)
	n, _ := r.ReadAt(head, 0)
	head = head[:n]
	is := func(off int, magic string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
	switch {
	case p.Type == typeBIOS:
		// GRUB's first sector says how many follow.
		if is(coreSegment, grubSegment) {
			p.Filesystem, p.Used = "grub", sector*(1+int64(le.Uint16(head[coreLength:])))
		}
	case is(erofs.SuperOffset, "\xe2\xe1\xf5\xe0"):
		p.Filesystem, p.Label = "erofs", text(head, erofs.SuperOffset+64, 16)
		if len(head) >= erofs.SuperOffset+128 {
			p.Used = int64(le.Uint32(head[erofs.SuperOffset+36:])) << min(head[erofs.SuperOffset+12], 16)
		}
	case is(1024+56, "\x53\xef"):
		p.Filesystem, p.Label = "ext4", text(head, 1024+120, 16)
		if len(head) >= 2048 {
			sb := head[1024:]
			p.Used = (int64(le.Uint32(sb[4:])) - int64(le.Uint32(sb[12:]))) << (10 + min(sb[24], 6))
		}
	case is(510, "\x55\xaa") && (is(82, "FAT32") || is(54, "FAT1")):
		p.Filesystem = "vfat"
		probeFAT(p, head, r)
	case is(0, "hsqs"):
		p.Filesystem = "squashfs"
		if len(head) >= 48 {
			p.Used = int64(le.Uint64(head[40:]))
		}
	case is(0, "verity\x00\x00"):
		p.Filesystem = "verity"
		if sb, err := superblock.Read(r); err == nil {
			p.Used = verity.Size(sb.DataBlocks * verity.BlockSize)
		}
	case is(0, "LUKS\xba\xbe"):
		p.Filesystem = "luks"
	}
	if p.Used < 0 || p.Used > p.Size {
		p.Used = p.Size
	}
}

func probeFAT(p *Partition, head []byte, r io.ReaderAt) {
	at := 43 // FAT12 and FAT16
	if string(head[82:87]) == "FAT32" {
		at = 71
		info := make([]byte, 512)
		unit := int64(le.Uint16(head[11:]))
		_, err := r.ReadAt(info, int64(le.Uint16(head[48:]))*unit)
		total, free := int64(le.Uint32(head[32:])), int64(le.Uint32(info[488:]))
		if err == nil && string(info[:4]) == "RRaA" && free != 0xffffffff {
			p.Used = (total - free*int64(head[13])) * unit
		}
	}
	if p.Label = text(head, at, 11); p.Label == "NO NAME" {
		p.Label = ""
	}
}

// container names image formats that are known but not read.
func container(r io.ReaderAt) string {
	b := make([]byte, 8)
	_, _ = r.ReadAt(b, 0)
	switch s := string(b); {
	case strings.HasPrefix(s, "QFI\xfb"):
		return "qcow2 image"
	case strings.HasPrefix(s, "KDMV"):
		return "VMDK image"
	case strings.HasPrefix(s, "conectix"), strings.HasPrefix(s, "vhdxfile"):
		return "VHD image"
	case strings.HasPrefix(s, "\x28\xb5\x2f\xfd"):
		return "zstd-compressed file"
	case strings.HasPrefix(s, "\x1f\x8b"):
		return "gzip-compressed file"
	case strings.HasPrefix(s, "\xfd7zXZ"):
		return "xz-compressed file"
	}
	return ""
}

// text returns a fixed field up to its padding, fit for a terminal.
func text(b []byte, off, n int) string {
	if off+n > len(b) {
		return ""
	}
	s, _, _ := strings.Cut(string(b[off:off+n]), "\x00")
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s), " ")
}
