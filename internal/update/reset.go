package update

import (
	"context"
	"errors"
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
		return atomicfile.Write(filepath.Join(m.state(), "factory-reset"), nil, 0o600)
	})
}
