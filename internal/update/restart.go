package update

import (
	"context"
	"errors"
	"fmt"

	"goldsmith/internal/command"
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
		return parts.LoadKexec()
	})
}
