package update

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"goldsmith/internal/fat"
)

// freeLost gives back what power cuts left on the EFI partition without a file:
// updates would find less room each time. While somebody has it mounted it is
// left alone; what else is wrong with it is said, and left to fsck.fat.
func (m *Machine) freeLost(d *slotDisk) {
	// Of a device that is mounted, O_EXCL is refused.
	esp, err := d.open("esp", os.O_RDONLY|unix.O_EXCL)
	if errors.Is(err, unix.EBUSY) {
		return
	}
	var freed int64
	if err == nil {
		var lost []uint32
		lost, err = fat.Lost(esp)
		err = errors.Join(err, esp.Close())
		if err == nil && len(lost) > 0 {
			freed, err = d.freeLost()
		}
	}
	switch {
	case errors.Is(err, fat.ErrFormat): // mounting it says so
	case err != nil:
		m.say("EFI partition: what belongs to no file cannot be given back: %v; "+
			"fsck.fat -a checks the partition when it is not mounted", err)
	case freed > 0:
		m.say("EFI partition: %d bytes that belonged to no file were given back", freed)
	}
}

func (d *slotDisk) freeLost() (freed int64, err error) {
	esp, err := d.open("esp", os.O_RDWR|unix.O_EXCL)
	if err != nil {
		return 0, err
	}
	freed, err = fat.FreeLost(esp)
	return freed, errors.Join(err, esp.Close())
}
