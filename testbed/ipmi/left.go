package ipmi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/app"
	"github.com/bougou/go-ipmi/pkg/types"
)

// A BMC has few sessions, often four, and keeps those of a process that was
// killed for a minute. So there is a file for each that is open, called as its
// number, and whoever comes next ends them.

// sessionFile is the file of a session.
func (s *session) sessionFile() string {
	return filepath.Join(s.sessions, fmt.Sprintf("%08x", s.guard.bmcID()))
}

// begins and ends keep the file. Where that cannot be, a session that is left
// ends by itself.
func (s *session) begins() {
	if s.sessions != "" && os.MkdirAll(s.sessions, 0o750) == nil {
		_ = os.WriteFile(s.sessionFile(), nil, 0o600)
	}
}

func (s *session) ends() {
	if s.sessions != "" {
		_ = os.Remove(s.sessionFile())
	}
}

// Left are the numbers of the sessions of which the directory has files: they
// were left, when nobody has a Machine with that directory.
func Left(dir string) ([]uint32, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []uint32
	for _, e := range entries {
		if id, err := strconv.ParseUint(e.Name(), 16, 32); err == nil && len(e.Name()) == 8 {
			ids = append(ids, uint32(id))
		}
	}
	return ids, nil
}

// EndLeft ends sessions of a process that is gone, and removes their files. One
// that has ended by itself is no error.
func (m *Machine) EndLeft(ctx context.Context, ids []uint32) error {
	for _, id := range ids {
		mine := false
		err := m.do(ctx, "end a session that was left", func(ctx context.Context, c *client.Client) error {
			if mine = m.session.guard.bmcID() == id; mine {
				return nil // the BMC has forgotten that one, and gives its number anew
			}
			_, err := c.CloseSession(ctx, &app.CloseSessionRequest{SessionID: id})
			if _, answered := types.IsResponseError(err); answered {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if !mine && m.sessions != "" {
			_ = os.Remove(filepath.Join(m.sessions, fmt.Sprintf("%08x", id)))
		}
	}
	return nil
}
