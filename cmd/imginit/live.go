package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"goldsmith/internal/earlyboot"
)

// liveRoot is the root of a live system that came with the initramfs.
const liveRoot = "/root.squashfs"

// mountLive mounts a live system's root and, in place of the state partition,
// a file system in memory: half of it at most.
func mountLive(c *console, args cmdline, mods *earlyboot.Loader, p *earlyboot.Plan) error {
	file, offset, size := liveRoot, int64(0), int64(0)
	if p.Live == earlyboot.LiveDisk {
		guid, err := args.rootGUID()
		if err != nil {
			return err
		}
		f := &finder{sys: "/sys/block", dev: "/dev", guid: guid, live: true}
		disk, err := f.wait(c, mods, args.Seconds("rootwait", 60))
		if err != nil {
			return err
		}
		file, offset, size = disk.root, disk.part.Start, disk.part.Size
	} else {
		if err := wholeRoot(file); err != nil {
			return err
		}
		mods.Coldplug() // for what gives the image randomness early
	}
	if err := mods.Always(); err != nil {
		return err
	}
	dev, err := attachLoop("/dev", file, offset, size)
	if err != nil {
		return fmt.Errorf("loop device for %s: %w", file, err)
	}
	if err := mountRoot(dev, "squashfs"); err != nil {
		return err
	}
	if err := os.MkdirAll(stateRoot, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", stateRoot, "tmpfs", 0, "mode=700,size=50%"); err != nil {
		return fmt.Errorf("mount state in memory: %w", err)
	}
	c.say("live system: nothing it writes is kept")
	return placeState(c, p.State, nil)
}

// wholeRoot tells a root that is cut off. When the initramfs does not fit into
// half of the memory, the kernel goes on with files that have their sizes and
// no content.
func wholeRoot(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return &os.PathError{Op: "stat", Path: file, Err: err}
	}
	if there := st.Blocks * 512; there < st.Size {
		return fmt.Errorf("%s: %d MiB of %d are there: the machine has too little memory", file, there>>20, st.Size>>20)
	}
	return nil
}

// attachLoop makes a read-only block device of size bytes of a file, from
// offset on; size 0 means up to its end. devices is where device files are.
func attachLoop(devices, file string, offset, size int64) (string, error) {
	backing, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer backing.Close() // the device keeps it open
	control, err := os.Open(filepath.Join(devices, "loop-control"))
	if err != nil {
		return "", err
	}
	defer control.Close()
	n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return "", fmt.Errorf("get a free one: %w", err)
	}
	name := filepath.Join(devices, fmt.Sprintf("loop%d", n))
	dev, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer dev.Close()
	config := &unix.LoopConfig{Fd: uint32(backing.Fd())}
	config.Info.Offset, config.Info.Sizelimit = uint64(offset), uint64(size)
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY
	if err := unix.IoctlLoopConfigure(int(dev.Fd()), config); err != nil {
		return "", fmt.Errorf("configure %s: %w", name, err)
	}
	return name, nil
}
