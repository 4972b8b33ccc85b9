package disk

import (
	"bytes"
	"fmt"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
	"goldsmith/internal/tree"
)

// GrubDir is where an image keeps the GRUB for BIOS firmware: boot.img, and
// core.img with everything that it needs to read the EFI partition. Element
// "boot" makes them with the distribution's own packages.
const GrubDir = "usr/lib/goldsmith/grub"

// grub is the boot loader of a BIOS. Its first sector holds a little program
// that loads the first sector of core, which loads the rest.
type grub struct {
	boot []byte // boot.img
	core []byte // core.img
}

// Offsets in GRUB's images: grub-core/boot/i386/pc/boot.S and diskboot.S,
// include/grub/i386/pc/boot.h.
const (
	bootCode    = 440   // of boot.img what is code; the partition table follows
	bootSector  = 0x5c  // boot.img: where core.img is, 8 bytes
	bootDrive   = 0x66  // boot.img: a jump that two nops replace on a hard disk
	coreBlocks  = 0x1f4 // core.img: where the rest of it is, 8 bytes
	coreLength  = 0x1fc // core.img: how many sectors that are, 2 bytes
	coreSegment = 0x1fe // core.img: where in memory they go
	grubSegment = "\x20\x08"
	coreMaxSize = mib - 34*sector
)

// readGRUB takes the image's GRUB; it returns nil when there is none.
func readGRUB(t *tree.Tree) (*grub, error) {
	g := &grub{}
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"boot.img", &g.boot}, {"core.img", &g.core}} {
		e := t.Lookup(GrubDir + "/" + f.name)
		if e == nil || e.Kind() != tree.ModeRegular {
			return nil, nil
		}
		if e.Size > coreMaxSize {
			return nil, command.BadInput(fmt.Errorf("/%s: %d bytes, at most %d fit", e.Path, e.Size, coreMaxSize), "")
		}
		var err error
		if *f.to, err = e.ReadFile(); err != nil {
			return nil, err
		}
	}
	if len(g.boot) != sector || !bytes.HasSuffix(g.boot, []byte{0x55, 0xaa}) {
		return nil, command.BadInput(fmt.Errorf("/%s/boot.img: not GRUB's boot sector", GrubDir), "")
	}
	rest := (len(g.core) - 1) / sector
	if rest < 1 || int(le.Uint16(g.core[coreLength:])) != rest || string(g.core[coreSegment:sector]) != grubSegment {
		err := fmt.Errorf("/%s/core.img: not an image that grub-mkimage -O i386-pc makes", GrubDir)
		return nil, command.BadInput(err, "")
	}
	return g, nil
}

// install writes GRUB into its partition and the first sector of the disk,
// which has the partition table already.
func (g *grub) install(w *target, p *Partition) error {
	if g == nil {
		return nil
	}
	core := bytes.Clone(g.core)
	first := uint64(p.Start / sector)
	le.PutUint64(core[coreBlocks:], first+1)
	if _, err := w.part(p).WriteAt(core, 0); err != nil {
		return err
	}
	p.Filesystem, p.Used = "grub", roundUp(int64(len(core)), sector)
	boot := bytes.Clone(g.boot[:bootCode])
	le.PutUint64(boot[bootSector:], first)
	copy(boot[bootDrive:], "\x90\x90")
	_, err := w.WriteAt(boot, 0)
	return err
}

// addGRUB puts on the EFI partition what GRUB reads there.
func (b *bootFiles) addGRUB(t *tree.Tree, id, cmdline string) error {
	env, err := bootentry.Env{bootentry.EnvGood: id}.Bytes()
	if err != nil {
		return err
	}
	dir := bootentry.BIOSDir + "/" + id + "/"
	t.AddFile(dir+"linux", 0o644, b.kernel)
	t.AddFile(dir+"initrd", 0o644, b.initramfs)
	t.AddFile(dir+"boot.cfg", 0o644, bootentry.BootConfig(id, cmdline))
	t.AddFile(bootentry.ConfigFile, 0o644, []byte(bootentry.GrubConfig))
	t.AddFile(bootentry.EnvFile, 0o644, env)
	return nil
}
