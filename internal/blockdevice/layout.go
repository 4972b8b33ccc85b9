package blockdevice

import "fmt"

// table is one use of the plugin partitioning.
type table struct {
	line       int
	disk       string // the node it is on
	gpt        bool
	align      int64 // of an MBR's partitions, in bytes
	partitions []*partition
}

// partition is one partition of a table.
type partition struct {
	table         *table
	name          string
	line          int
	size          share
	boot, primary bool
	kind          string // type: two hexadecimal digits with an MBR, a GUID in lower case with a GPT
}

// slot is where a partition lies, in sectors.
type slot struct {
	*partition
	number        int // as the kernel counts
	start, length int64
	ebr           int64 // where a logical partition's record lies, else 0
	next          int64 // where the next partition may begin
}

const mib = 1 << 20

// layout places the partitions on a disk of size bytes.
func (t *table) layout(size int64, sector int) ([]slot, error) {
	if size%int64(sector) != 0 {
		return nil, fmt.Errorf("the disk's %d bytes are not whole sectors of %d", size, sector)
	}
	if t.gpt {
		return t.layoutGPT(size, int64(sector))
	}
	return t.layoutMBR(size, int64(sector))
}

// gptReserve is what the original keeps free for the tables and for rounding.
const gptReserve = 2 * mib

// layoutGPT places partitions one behind the other in whole MiB.
func (t *table) layoutGPT(size, sector int64) ([]slot, error) {
	var slots []slot
	free, next := size-gptReserve, int64(mib)
	for i, p := range t.partitions {
		want := p.size.of(free)
		if want > free {
			return nil, tooLarge(p, want, free)
		}
		length := want / mib * mib
		if length <= 0 {
			return nil, fmt.Errorf("partition %s: %d bytes of %d are less than the 1 MiB a partition has at least",
				p.name, want, max(free, 0))
		}
		slots = append(slots, slot{partition: p, number: i + 1, start: next / sector, length: length / sector})
		free -= want
		next += length
	}
	return slots, nil
}

// layoutMBR places primary partitions, then logical ones behind their records,
// each at a multiple of the alignment. One alignment stays free at the end.
func (t *table) layoutMBR(size, sector int64) ([]slot, error) {
	unit, total := t.align/sector, size/sector
	if unit < 1 {
		return nil, fmt.Errorf("align is less than a sector of %d bytes", sector)
	}
	up := func(n int64) int64 { return (n + unit - 1) / unit * unit }
	var slots []slot
	next, number := unit, 0
	for _, p := range t.partitions {
		free := size - (next+unit)*sector
		want := p.size.of(free)
		s := slot{partition: p, start: next, length: want / sector}
		if !p.primary {
			number = max(number, 4)
			s.ebr, s.start = next, next+unit
		}
		number++
		s.number = number
		if s.start+s.length > total {
			return nil, tooLarge(p, want, max(size-s.start*sector, 0))
		}
		if s.length <= 0 {
			return nil, fmt.Errorf("partition %s: %d bytes of %d are less than a sector", p.name, want, max(free, 0))
		}
		if s.start+s.length > 1<<32 {
			return nil, fmt.Errorf("partition %s: ends beyond what an mbr can address: use label gpt", p.name)
		}
		s.next = up(s.start + s.length)
		slots, next = append(slots, s), s.next
	}
	return slots, nil
}

func tooLarge(p *partition, want, free int64) error {
	return fmt.Errorf("partition %s: %d bytes do not fit, %d are free", p.name, want, max(free, 0))
}
