package deploy

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Choose picks the disks for the storage: of those that may be taken the smallest,
// of equal ones the first by name. It returns as many as the storage needs. The error
// says of every disk why it was not taken.
func (s *Storage) Choose(disks []Disk) ([]Disk, error) {
	var fit []Disk
	for _, d := range disks {
		if s.refuse(d) == "" {
			fit = append(fit, d)
		}
	}
	slices.SortStableFunc(fit, func(a, b Disk) int {
		return cmp.Or(cmp.Compare(a.Size, b.Size), cmp.Compare(a.Path, b.Path))
	})
	if len(fit) >= s.Need() {
		return fit[:s.Need()], nil
	}
	var why []string
	for _, d := range disks {
		if reason := s.refuse(d); reason != "" {
			why = append(why, d.Path+": "+reason)
		}
	}
	if len(disks) == 0 {
		why = []string{"the machine has no disk"}
	}
	err := fmt.Errorf("%d disks fit, %d are needed", len(fit), s.Need())
	if len(why) > 0 {
		err = fmt.Errorf("%w; %s", err, strings.Join(why, "; "))
	}
	return nil, err
}

// refuse says why a disk is not taken; empty when it may be.
func (s *Storage) refuse(d Disk) string {
	h := s.Hints
	switch {
	case d.Removable:
		return "it is removable"
	case d.ReadOnly:
		return "it is read-only"
	case d.Size == 0:
		return "it has no medium"
	case d.Size < s.Size:
		return fmt.Sprintf("it has %d bytes, %d are wanted", d.Size, s.Size)
	case h.Serial != "" && h.Serial != d.Serial:
		return fmt.Sprintf("its serial number is %q", d.Serial)
	case h.WWN != "" && bareWWN(h.WWN) != bareWWN(d.WWN):
		return fmt.Sprintf("its WWN is %q", d.WWN)
	case h.Size != 0 && h.Size != d.Size:
		return fmt.Sprintf("it has %d bytes, exactly %d are wanted", d.Size, h.Size)
	case h.Model != "" && !strings.Contains(d.Model, h.Model):
		return fmt.Sprintf("its model is %q", d.Model)
	case h.Rotational != nil && *h.Rotational != d.Rotational:
		return fmt.Sprintf("rotational is %v", d.Rotational)
	}
	return ""
}

// bareWWN is the number of a world wide name: people leave out what the kernel
// puts before it, or write 0x.
func bareWWN(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	for _, before := range []string{"naa.", "eui.", "uuid.", "wwn-0x", "0x"} {
		s = strings.TrimPrefix(s, before)
	}
	return s
}
