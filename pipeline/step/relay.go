package step

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/testbed"
)

// relay runs command lines of tests on the host, which are not written in Go,
// through a shell of ours. The command machine-ssh makes a directory with the
// line and its standard input, tells us its name through a named pipe, and waits
// at another one for the end. It holds a third one open while it is there: where
// it is ended, its command line is ended too.
type relay struct {
	shell testbed.Shell
	dir   string
	stop  context.CancelFunc
	asks  *os.File
	work  sync.WaitGroup
}

const relayScript = `#!/bin/sh
# Runs a command line on the machine, as ssh does.
set -eu
case ${1:-} in -*) echo "machine-ssh: no options: this stage does not use SSH" >&2; exit 255 ;; esac
dir=$(mktemp -d %[1]s/ask.XXXXXX)
trap 'rm -rf "$dir"' EXIT
printf '%%s' "$*" >"$dir/line"
cat >"$dir/in"
mkfifo "$dir/end" "$dir/here"
exec 3<>"$dir/here"
printf '%%s\n' "${dir##*/}" >%[1]s/asks
read -r status <"$dir/end"
cat "$dir/out"
cat "$dir/err" >&2
exit "$status"
`

// startRelay serves machine-ssh, which it writes as a file. All its command lines
// end when over is closed, if that is not nil.
func startRelay(sh testbed.Shell, over <-chan struct{}, dir, command string) (*relay, error) {
	ctx, stop := context.WithCancel(context.Background())
	r := &relay{shell: sh, dir: dir, stop: stop}
	asks := filepath.Join(dir, "asks")
	err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(filepath.Dir(command), 0o700))
	if err == nil {
		err = errors.Join(unix.Mkfifo(asks, 0o600), os.WriteFile(command, fmt.Appendf(nil, relayScript, testbed.Quote(dir)), 0o700))
	}
	if err == nil {
		// Open for writing, too: it does not end when nobody asks.
		r.asks, err = os.OpenFile(asks, os.O_RDWR, 0)
	}
	if err != nil {
		stop()
		return nil, fmt.Errorf("command for tests: %w", err)
	}
	r.work.Go(func() {
		select {
		case <-over:
			stop()
		case <-ctx.Done():
		}
	})
	r.work.Go(func() {
		for lines := bufio.NewScanner(r.asks); lines.Scan(); {
			name := filepath.Base(lines.Text())
			r.work.Go(func() { r.answer(ctx, filepath.Join(dir, name)) })
		}
	})
	return r, nil
}

func (r *relay) close() {
	r.stop()
	_ = r.asks.Close()
	r.work.Wait()
	_ = os.RemoveAll(r.dir)
}

// unreached is the status of ssh when it cannot reach a machine.
const unreached = 255

// askerLimit is how long who asked may take for the answer when no more are
// given.
const askerLimit = 2 * time.Second

// answer runs one command line, until who asked is gone.
func (r *relay) answer(ctx context.Context, dir string) {
	defer os.RemoveAll(dir) // who is killed leaves it
	end, err := os.OpenFile(filepath.Join(dir, "end"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return // who asked is gone
	}
	defer end.Close()
	here, err := os.OpenFile(filepath.Join(dir, "here"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer here.Close()
	asked, cancel := context.WithCancel(ctx)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, here) // it ends with the last who has it open for writing
		cancel()
	}()
	status, errs := 0, &bytes.Buffer{}
	out, err := os.Create(filepath.Join(dir, "out"))
	if err == nil {
		err = errors.Join(r.run(asked, dir, out, errs), out.Close())
	}
	if remote, ok := errors.AsType[*testbed.RemoteError](err); ok {
		if status = remote.Status; remote.Signal != "" {
			status = unreached // as ssh has it
		}
	} else if err != nil {
		status = unreached
		fmt.Fprintln(errs, err)
	}
	if os.WriteFile(filepath.Join(dir, "err"), errs.Bytes(), 0o600) != nil {
		status = unreached
	}
	_, _ = end.WriteString(strconv.Itoa(status) + "\n")
	// It is read before we close the pipe, or never.
	select {
	case <-gone:
		return
	case <-ctx.Done():
	}
	select {
	case <-gone:
	case <-time.After(askerLimit):
	}
}

func (r *relay) run(ctx context.Context, dir string, out, errs interface{ Write([]byte) (int, error) }) error {
	line, err := os.ReadFile(filepath.Join(dir, "line"))
	if err != nil {
		return err
	}
	in, err := os.Open(filepath.Join(dir, "in"))
	if err != nil {
		return err
	}
	defer in.Close()
	return r.shell.Run(ctx, testbed.Command{Line: strings.TrimSpace(string(line)), Stdin: in, Stdout: out, Stderr: errs})
}
