package testbed

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"goldsmith/internal/atomicfile"
)

// Output runs a command line and returns its standard output.
func (s *ConsoleShell) Output(ctx context.Context, line string) (string, error) {
	var b bytes.Buffer
	err := s.Run(ctx, Command{Line: line, Stdout: &b})
	return b.String(), err
}

// Put implements Shell. A file may have 8 MiB.
func (s *ConsoleShell) Put(ctx context.Context, src, dst string, mode os.FileMode) error {
	r, err := os.Open(src)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := s.prepared(ctx)
	if err != nil {
		return err
	}
	defer s.done(f)
	if err := s.send(ctx, f, ".put", r); err != nil {
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	part := Quote(dst + ".goldsmith-part")
	line := fmt.Sprintf("umask 077 && cat %s >%s && chmod %o %s && mv -f %s %s || { rm -f %s; exit 1; }",
		f.path(".put"), part, mode.Perm(), part, part, Quote(dst), part)
	if err := s.Run(ctx, Command{Line: line}); err != nil {
		return fmt.Errorf("copy to %s: %w", dst, err)
	}
	return nil
}

// Get implements Shell: dst gets mode 0600. A file may have 8 MiB.
func (s *ConsoleShell) Get(ctx context.Context, src, dst string) error {
	f, err := atomicfile.Create(dst, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := s.Run(ctx, Command{Line: "cat " + Quote(src), Stdout: f}); err != nil {
		return fmt.Errorf("copy from %s: %w", filepath.Base(src), err)
	}
	return f.Commit()
}

// send copies what r has to one of our files on the machine.
func (s *ConsoleShell) send(ctx context.Context, f consoleFiles, ending string, r io.Reader) error {
	part := make([]byte, consoleLine)
	whole := sha256.New()
	file := f.path(ending)
	for number, total := 0, 0; ; number++ {
		n, rerr := io.ReadFull(r, part)
		if rerr != nil && !errors.Is(rerr, io.EOF) && !errors.Is(rerr, io.ErrUnexpectedEOF) {
			return rerr
		}
		if total += n; total > maxConsole {
			return fmt.Errorf("more than %d bytes do not go through a console", maxConsole)
		}
		if n > 0 {
			whole.Write(part[:n])
			// Each part is a file: to write it twice does no harm.
			script := fmt.Sprintf("umask 077; printf %%s '%s' | base64 -d >%s.%06d", base64.StdEncoding.EncodeToString(part[:n]), file, number)
			if _, err := s.ask(ctx, f.dir, script); err != nil {
				return err
			}
		}
		if rerr != nil {
			break
		}
	}
	b, err := s.ask(ctx, f.dir, fmt.Sprintf("umask 077; cat /dev/null %[1]s.?????? >%[1]s; sha256sum <%[1]s", file))
	if err != nil {
		return err
	}
	if sum, _, _ := strings.Cut(string(b), " "); sum != hex.EncodeToString(whole.Sum(nil)) {
		return s.unreachable(ctx, errors.New("what was typed has arrived differently; is the machine's disk full?"))
	}
	return nil
}

// fetchAll copies a file of the machine, of that size, to w: packed, where it is
// large and the machine can do that.
func (s *ConsoleShell) fetchAll(ctx context.Context, f consoleFiles, ending string, size int, w io.Writer) error {
	if size <= 2*consolePart {
		return s.fetch(ctx, f, ending, 0, size, w)
	}
	b, err := s.ask(ctx, f.dir, fmt.Sprintf("umask 077; gzip -1 -c %[1]s >%[1]s.gz && wc -c <%[1]s.gz || echo %[2]d", f.path(ending), size))
	if err != nil {
		return err
	}
	packed, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || packed >= size {
		return s.fetch(ctx, f, ending, 0, size, w)
	}
	var gz bytes.Buffer
	if err := s.fetch(ctx, f, ending+".gz", 0, packed, &gz); err != nil {
		return err
	}
	r, err := gzip.NewReader(&gz)
	if err != nil {
		return s.unreachable(ctx, err)
	}
	n, err := io.Copy(w, io.LimitReader(r, int64(size)+1))
	if err == nil && n != int64(size) {
		err = s.unreachable(ctx, fmt.Errorf("%d bytes came of %d", n, size))
	}
	return err
}

// fetch copies what a file of the machine has from one place to another to w.
// Where answers are damaged it asks for less at a time, so that some get between
// what else is printed.
func (s *ConsoleShell) fetch(ctx context.Context, f consoleFiles, ending string, from, to int, w io.Writer) error {
	for size := consolePart; from < to; {
		want := min(size, to-from)
		b, err := s.part(ctx, f.dir, fmt.Sprintf("tail -c +%d %s | head -c %d", from+1, f.path(ending), want), size > consoleLess)
		switch {
		case errors.Is(err, errConsoleDamaged) && size > consoleLess && ctx.Err() == nil:
			size = max(size/4, consoleLess)
			continue
		case err != nil:
			return err
		case len(b) != want:
			return s.unreachable(ctx, fmt.Errorf("%d of %d bytes are there: the machine was started anew", from+len(b), to))
		}
		from += want
		if _, err := w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// part is ask; where less could be asked for it gives up early.
func (s *ConsoleShell) part(ctx context.Context, dir, script string, early bool) ([]byte, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.unlock()
	if early {
		return s.askAlone(ctx, dir, script, 2)
	}
	return s.askAlone(ctx, dir, script, consoleTries)
}
