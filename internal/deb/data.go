package deb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// decompress opens the file anew, so that its reader is independent of others.
func decompress(ctx context.Context, file string, m member) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	if path.Ext(m.name) == ".xz" {
		if _, err := f.Seek(m.offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return startXZ(ctx, f, m)
	}
	r, err := unpacker(m.name, io.NewSectionReader(f, m.offset, m.size))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %s: %w", file, m.name, err), f.Close())
	}
	return &inProcess{r, f}, nil
}

// inProcess closes the file with the reader.
type inProcess struct {
	io.ReadCloser
	f *os.File
}

func (r *inProcess) Close() error { return errors.Join(r.ReadCloser.Close(), r.f.Close()) }

// startXZ gives the file to xz(1), which is several times as fast as what can
// be had in Go. It reads from the offset by itself; what lies behind the
// member is not its stream. It is not run by package command, which would copy
// all it writes twice: hundreds of megabytes for a system.
func startXZ(ctx context.Context, f *os.File, m member) (io.ReadCloser, error) {
	defer f.Close() // xz has its own
	ctx, cancel := context.WithCancel(ctx)
	r, w, err := os.Pipe()
	if err != nil {
		cancel()
		return nil, err
	}
	defer w.Close()
	// xz writes little at a time; the more there is room for, the less often
	// the two wait for each other. The kernel may refuse.
	_, _ = unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, pipeSize)
	x := &piped{name: f.Name() + ": " + m.name, pipe: r, cancel: cancel}
	x.cmd = exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--single-stream")
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = f, w, &x.said
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := x.cmd.Start(); err != nil {
		cancel()
		return nil, command.Missing(fmt.Errorf("xz: %w", errors.Join(err, r.Close())), "apt-get install xz-utils")
	}
	return x, nil
}

const pipeSize = 1 << 20 // bytes

// piped is what xz writes.
type piped struct {
	name   string
	pipe   *os.File
	cmd    *exec.Cmd
	said   bytes.Buffer // by xz, of errors
	cancel context.CancelFunc
	waited bool
	err    error // of xz
}

// Read returns the end of the data only when xz ended well.
func (p *piped) Read(b []byte) (int, error) {
	n, err := p.pipe.Read(b)
	if err == io.EOF {
		if werr := p.wait(); werr != nil {
			err = werr
		}
	}
	return n, err
}

func (p *piped) wait() error {
	if !p.waited {
		p.waited = true
		if err := p.cmd.Wait(); err != nil {
			p.err = fmt.Errorf("%s: xz: %w: %s", p.name, err, bytes.TrimSpace(p.said.Bytes()))
		}
	}
	return p.err
}

// Close ends xz, which ends by itself when nobody reads any more.
func (p *piped) Close() error {
	err := p.pipe.Close()
	p.cancel()
	_ = p.wait() // who closes early does not want the rest
	return err
}
