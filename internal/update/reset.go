package update

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
)

// Reset has the next start of this machine forget what it keeps, but for its
// records about the slots (docs/boot.md). Not while an image has yet to prove
// itself: a return would find nothing of what was before.
func (m *Machine) Reset(ctx context.Context) error {
	return m.locked(ctx, func(r *Record) error {
		if r.Trial != nil {
			return command.BadInput(errors.New("an image has yet to prove itself"),
				"wait for it, or end it: imgupdate good, imgupdate rollback")
		}
		return atomicfile.Write(m.resetFile(), nil, 0o600)
	})
}

func (m *Machine) resetFile() string { return filepath.Join(m.state(), "factory-reset") }

// noReset is an error while a reset was asked for: it would come with the first
// start of an image on trial, and take what a return needs.
func (m *Machine) noReset() error {
	_, err := os.Lstat(m.resetFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return command.BadInput(errors.New("a factory reset waits for the next start"),
		"restart the machine first, or call the reset off: rm "+m.resetFile())
}
