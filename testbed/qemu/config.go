package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"goldsmith/internal/command"
	"goldsmith/testbed"
)

// MachineConfig describes a Machine. Name, Dir and one disk must be set.
type MachineConfig struct {
	Name string // letters, digits, dots and dashes
	// Dir holds the machine's own files: what it writes to its disks, its UEFI
	// variables, its console's text. It is made when it is missing, and belongs
	// to one machine at a time. Release removes the machine's files, but the
	// console's text, and no others.
	Dir       string
	Disks     []Disk
	NICs      []NIC
	Firmware  testbed.Firmware // "" means UEFI, with variables of its own
	CPUs      int              // 0 means 2
	MemoryMiB int              // 0 means 1024
	// Accelerator is testbed.KVM or testbed.TCG; "" means what
	// testbed.Accelerator says.
	Accelerator string
	// Network is where the machine's taps are and its SSH port is; nil means
	// the host's.
	Network testbed.Network
	// IP is the machine's address where the caller knows it; the zero Addr
	// means 127.0.0.1 when a user network leads to port 22, and none otherwise.
	IP netip.Addr
}

// Disk is one of a machine's disks: an image that is only read, with what the
// machine writes beside it; an empty disk of some size; or a file that is
// written and kept.
type Disk struct {
	Image  string // what the disk begins as
	Format string // of Image, "raw" or "qcow2"; "" means what its first bytes say
	Size   int64  // in bytes; 0 means the image's
	// File is a raw file that the machine writes. It is made, of Size, when it
	// is missing, and never removed. Image must be empty.
	File string
	// Serial is the disk's serial number, by which it is found in
	// /dev/disk/by-id: at most 20 letters, digits, dots and dashes.
	Serial string
	// ReadOnly keeps the machine from writing: a seed, for example. Nothing
	// starts from it.
	ReadOnly bool
	// CD makes a CD-ROM of Image.
	CD bool
}

// NIC is one of a machine's network cards, a virtio one.
type NIC struct {
	// MAC is the hardware address; "" means one made of the machine's name and
	// directory and the card's number.
	MAC string
	// Boot lets the machine start from this card: PXE by iPXE under BIOS, by
	// OVMF under UEFI.
	Boot bool
	// Tap is a tap device in the machine's Network that the card is connected
	// to. Without it the card is in a network of its own, that of QEMU
	// (10.0.2.0/24, the machine at 10.0.2.15), to which the rest belongs.
	Tap string
	// SSH leads a port of 127.0.0.1 to the machine's port 22: Machine.SSHAddr.
	SSH bool
	// Uplink lets the machine reach what the Network reaches.
	Uplink bool
	// TFTP is a directory that the network serves by TFTP, and BootFile what
	// machines are told to start: the name of a file in it.
	TFTP, BootFile string
}

var (
	nameForm   = regexp.MustCompile(`^[0-9A-Za-z.-]+$`)
	serialForm = regexp.MustCompile(`^[0-9A-Za-z.-]{0,20}$`)
	tapForm    = regexp.MustCompile(`^[^\s/,:%]{0,15}$`)
)

func (c MachineConfig) withDefaults(ctx context.Context) (MachineConfig, error) {
	if !nameForm.MatchString(c.Name) {
		return c, fmt.Errorf("machine %q: a name has letters, digits, dots and dashes only", c.Name)
	}
	if c.Dir == "" || len(c.Disks) == 0 {
		return c, fmt.Errorf("machine %s: directory and disks must be given", c.Name)
	}
	var err error
	if c.Dir, err = filepath.Abs(c.Dir); err != nil {
		return c, err
	}
	c.Disks = append([]Disk(nil), c.Disks...)
	for i := range c.Disks {
		if err := c.Disks[i].complete(); err != nil {
			return c, fmt.Errorf("machine %s: disk %d: %w", c.Name, i, err)
		}
	}
	c.NICs = append([]NIC(nil), c.NICs...)
	for i := range c.NICs {
		if err := c.NICs[i].complete(c.Name + c.Dir + strconv.Itoa(i)); err != nil {
			return c, fmt.Errorf("machine %s: network card %d: %w", c.Name, i, err)
		}
	}
	if c.CPUs == 0 {
		c.CPUs = 2
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = 1024
	}
	if c.Firmware == "" {
		c.Firmware = testbed.UEFI
	}
	if c.Network == nil {
		c.Network = testbed.Host{}
	}
	if c.Accelerator == "" {
		c.Accelerator = testbed.Accelerator(ctx)
	}
	return c, context.Cause(ctx)
}

func (d *Disk) complete() error {
	for _, p := range []*string{&d.Image, &d.File} {
		if *p == "" {
			continue
		}
		var err error
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	switch {
	case !serialForm.MatchString(d.Serial):
		return fmt.Errorf("serial number %q: at most 20 letters, digits, dots and dashes", d.Serial)
	case d.File != "" && (d.Image != "" || d.CD):
		return errors.New("an image and a file that is written; give one of them")
	case (d.ReadOnly || d.CD) && d.Image == "" && d.File == "":
		return errors.New("nothing to read from it")
	case d.Image == "" && d.File == "" && d.Size <= 0:
		return errors.New("no image and no size")
	case d.Image == "":
		return nil
	}
	if _, err := os.Stat(d.Image); err != nil {
		return command.BadInput(err, "")
	}
	if d.Format == "" {
		var err error
		d.Format, err = format(d.Image)
		return err
	}
	return nil
}

// overlaid says that what is written goes to a file beside the image.
func (d Disk) overlaid() bool { return d.File == "" && !d.ReadOnly && !d.CD }

// format is what QEMU finds in the file that it opens.
func (d Disk) format() string {
	switch {
	case d.File != "":
		return "raw"
	case d.overlaid():
		return "qcow2"
	}
	return d.Format
}

// prepare makes what QEMU opens, at path where it is an overlay.
func (d Disk) prepare(ctx context.Context, path string) error {
	if d.overlaid() {
		return testbed.CreateOverlay(ctx, path, d.Image, d.Format, d.Size)
	}
	if d.File == "" {
		return nil
	}
	f, err := os.OpenFile(d.File, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(d.Size), f.Close())
}

func (n *NIC) complete(seed string) error {
	if !tapForm.MatchString(n.Tap) {
		return fmt.Errorf("tap device %q: not a device's name", n.Tap)
	}
	if n.Tap != "" && (n.SSH || n.Uplink || n.TFTP != "") {
		return errors.New("a tap device has no port forwarding, uplink or TFTP of ours")
	}
	if n.TFTP != "" {
		var err error
		if n.TFTP, err = filepath.Abs(n.TFTP); err != nil {
			return err
		}
	}
	if n.MAC == "" {
		n.MAC = testbed.HashedMAC(seed)
		return nil
	}
	mac, err := net.ParseMAC(n.MAC)
	if err != nil || len(mac) != 6 {
		return fmt.Errorf("hardware address %q: not one of six bytes", n.MAC)
	}
	n.MAC = mac.String()
	return nil
}

// format tells a qcow2 image from a raw one.
func format(image string) (string, error) {
	f, err := os.Open(image)
	if err != nil {
		return "", err
	}
	defer f.Close()
	magic := make([]byte, 4)
	if _, err := io.ReadFull(f, magic); err != nil {
		return "", fmt.Errorf("%s: %w", image, err)
	}
	if string(magic) == "QFI\xfb" {
		return "qcow2", nil
	}
	return "raw", nil
}
