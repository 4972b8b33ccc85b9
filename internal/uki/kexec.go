package uki

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// LoadKexec gives the running kernel this one, to be started in its place
// without firmware and boot loader (kexec_file_load(2)). It takes the
// privilege to restart the machine.
func (m *Image) LoadKexec() error {
	kernel, err := memory("linux", m.Linux)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := memory("initrd", m.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), m.Cmdline, 0); err != nil {
		return command.Hint(fmt.Errorf("kexec: %w", err), "restart with reboot: this kernel does not start others")
	}
	return nil
}

// memory is a file in memory with that content.
func memory(name string, content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(content, 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
