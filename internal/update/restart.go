package update

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/uki"
)

// Restart has the service manager stop everything and restart the machine. It
// returns when that has been asked for.
func (m *Machine) Restart(ctx context.Context, kexec bool) error {
	verb := "reboot"
	if kexec {
		if err := m.locked(ctx, m.loadKexec); err != nil {
			return err
		}
		verb = "kexec"
	}
	m.say("%s", verb)
	return command.Exec{Args: []string{"systemctl", verb, "--no-block"}}.Run(ctx)
}

// loadKexec gives the kernel the one of the image on trial, to be started
// without firmware and boot loader, which therefore does not count that start.
func (m *Machine) loadKexec(r *Record) error {
	if r.Trial == nil || m.onTrial(r) {
		return command.BadInput(errors.New("no image waits for a start"), "install one first")
	}
	d, err := openDisk(m.Boot.Disk)
	if err != nil {
		return err
	}
	return m.withESP(d, func(e *esp) error {
		s := r.Slots[r.Trial.Slot]
		if damage := e.inspect(s); damage != "" {
			return fmt.Errorf("version %s: %s", s.Version, damage)
		}
		parts, err := e.parse(s.ID())
		if err != nil {
			return err
		}
		return kexecLoad(parts)
	})
}

func kexecLoad(parts uki.Image) error {
	kernel, err := memory("linux", parts.Linux)
	if err != nil {
		return err
	}
	defer kernel.Close()
	initrd, err := memory("initrd", parts.Initrd)
	if err != nil {
		return err
	}
	defer initrd.Close()
	if err := unix.KexecFileLoad(int(kernel.Fd()), int(initrd.Fd()), parts.Cmdline, 0); err != nil {
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
