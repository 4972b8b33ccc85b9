package fat

import (
	"fmt"

	"goldsmith/internal/command"
)

const fatCopies = 2

// layout is how a volume is divided: reserved sectors, the copies of the
// allocation table, the root directory (FAT12 and FAT16 only), clusters.
// Counts are of 512-byte sectors unless said otherwise.
type layout struct {
	kind        int   // 12, 16 or 32
	perCluster  int64 // sectors in one cluster
	reserved    int64
	fatSectors  int64 // sectors of one copy of the table
	rootEntries int64 // directory entries of the fixed root directory; 0 for FAT32
	clusters    int64
	total       int64
}

func (l layout) rootSectors() int64 { return ceil(l.rootEntries*entrySize, sectorSize) }

func (l layout) dataStart() int64 {
	return l.reserved + fatCopies*l.fatSectors + l.rootSectors()
}

func (l layout) clusterSize() int64 { return l.perCluster * sectorSize }

// clusterRange is how many clusters each type may have. The type of a volume
// is told by its number of clusters alone; the specification asks to keep 16
// clusters away from the limits, because many drivers are off by some.
func clusterRange(kind int) (least, most int64) {
	switch kind {
	case 12:
		return 1, 4084 - 16
	case 16:
		return 4085 + 16, 65524 - 16
	}
	return 65525 + 16, 0x0ffffff4
}

// sizes for the type when the caller leaves it open, in bytes.
const (
	below16 = 4 << 20
	below32 = 33 << 20
)

// plan chooses the layout for the options and checks that the content fits.
func plan(o Options, root *node) (layout, error) {
	switch o.Type {
	case 0, 12, 16, 32:
	default:
		return layout{}, fmt.Errorf("fat type %d: not 12, 16 or 32", o.Type)
	}
	if o.Size == 0 {
		return smallest(o.Type, root)
	}
	if o.Size < 0 || o.Size/sectorSize > 1<<32-1 {
		return layout{}, fmt.Errorf("fat volume of %d bytes: not between 1 and %d", o.Size, int64(1<<32-1)*sectorSize)
	}
	kind := o.Type
	switch {
	case kind != 0:
	case o.Size < below16:
		kind = 12
	case o.Size < below32:
		kind = 16
	default:
		kind = 32
	}
	total := o.Size / sectorSize
	for per := firstPerCluster(kind, total); per <= maxPerCluster; per *= 2 {
		l := divide(kind, per, total, rootEntries(kind, root))
		least, most := clusterRange(kind)
		if l.clusters > most {
			continue
		}
		need := root.need(l)
		if l.clusters < least && need <= l.clusters {
			break // larger clusters are still fewer
		}
		if need > l.clusters || l.clusters < 1 {
			return layout{}, command.Hint(fmt.Errorf("FAT%d volume of %d bytes: the content needs %d bytes, %d are available",
				kind, o.Size, need*l.clusterSize(), max(l.clusters, 0)*l.clusterSize()), "make the volume larger or leave files out")
		}
		return l, nil
	}
	return layout{}, fmt.Errorf("FAT%d volume of %d bytes: this type cannot have that size", kind, o.Size)
}

// maxPerCluster makes clusters of 32 KiB, the largest that every driver reads.
const maxPerCluster = 64

// firstPerCluster is the smallest cluster worth trying for a volume of total
// sectors: for FAT32 the specification's table, else one sector.
func firstPerCluster(kind int, total int64) int64 {
	const mib = 1 << 20 / sectorSize
	switch {
	case kind != 32 || total <= 260*mib:
		return 1
	case total <= 8<<10*mib:
		return 8
	case total <= 16<<10*mib:
		return 16
	case total <= 32<<10*mib:
		return 32
	}
	return 64
}

// divide lays out total sectors. The number of clusters may come out at zero
// or below, or beyond what the type allows; the caller checks.
func divide(kind int, per, total, entries int64) layout {
	l := layout{kind: kind, perCluster: per, rootEntries: entries, total: total}
	for l.fatSectors = 1; ; {
		l.reserved = reserved(l)
		l.clusters = (total - l.dataStart()) / per
		if total < l.dataStart() {
			l.clusters = 0
		}
		f := tableSectors(kind, l.clusters)
		if f <= l.fatSectors {
			return l
		}
		l.fatSectors = f
	}
}

// smallest is the layout of the smallest volume that holds the content.
func smallest(kind int, root *node) (layout, error) {
	kinds := []int{12, 16, 32}
	if kind != 0 {
		kinds = []int{kind}
	}
	for _, k := range kinds {
		per := int64(1)
		for per <= maxPerCluster {
			l := layout{kind: k, perCluster: per, rootEntries: rootEntries(k, root)}
			least, most := clusterRange(k)
			l.clusters = max(least, root.need(l))
			if k == 32 {
				if first := firstPerCluster(k, l.clusters*per); first > per {
					per = first
					continue
				}
			}
			if l.clusters <= most {
				l.fatSectors = tableSectors(k, l.clusters)
				l.reserved = reserved(l)
				l.total = l.dataStart() + l.clusters*per
				return l, nil
			}
			if kind == 0 && k != 32 {
				break // a larger type with small clusters wastes less
			}
			per *= 2
		}
	}
	return layout{}, fmt.Errorf("FAT volume: the content needs more than any type can hold")
}

// reserved is how many sectors precede the table. FAT32 keeps 32 and some to
// make the first cluster begin at a multiple of 4 KiB and of the cluster size.
func reserved(l layout) int64 {
	if l.kind != 32 {
		return 1
	}
	align := max(l.perCluster, 8)
	tables := fatCopies * l.fatSectors
	return ceil(32+tables, align)*align - tables
}

// tableSectors is the length of one table for a number of clusters; clusters
// are counted from 2.
func tableSectors(kind int, clusters int64) int64 {
	return ceil(ceil((clusters+2)*int64(kind), 8), sectorSize)
}

// rootEntries is the size of the fixed root directory: 512 entries, as many
// drivers expect, or more where the content asks for it.
func rootEntries(kind int, root *node) int64 {
	if kind == 32 {
		return 0
	}
	return max(512, ceil(root.slots(), 16)*16)
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }
