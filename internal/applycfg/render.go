package applycfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/template"
)

// maxOutput bounds what an executable template may print.
const maxOutput = 64 << 20

// parse reads one template; nil is an executable one.
func (r *renderer) parse(rel string) (*template.Template, error) {
	src := r.source(rel)
	text, mode, err := r.at.readRegular(src, r.text)
	r.text = text
	if err != nil || executable(src, mode) {
		return nil, err
	}
	if !utf8.Valid(text) {
		return nil, command.BadInput(fmt.Errorf("%s: not UTF-8", src), "templates are text; copy other files in install.d")
	}
	parse := template.Parse
	if r.Original {
		parse = template.ParseOriginal
	}
	t, err := parse(src, newlines(string(text)))
	return t, remedied(err)
}

// file renders one template.
func (r *renderer) file(ctx context.Context, rel string) (File, error) {
	f := File{Path: rel, Control: noControl}
	src := r.source(rel)
	t, err := r.parse(rel)
	if err != nil {
		return f, err
	}
	if t == nil {
		f.Body, err = r.run(ctx, src)
		f.shown = r.show(nil)
		return f, err
	}
	opts := template.Options{Text: metadata.JSON, Partial: partial, Strict: r.Strict}
	if f.Body, err = t.Render(r.doc, opts); err != nil {
		return f, remedied(err)
	}
	if !utf8.Valid(f.Body) {
		return f, command.BadInput(fmt.Errorf("%s: a value has half of a surrogate pair, which is no character", src),
			`mend the escape \uD800 to \uDFFF in the metadata`)
	}
	f.shown = r.show(func(s *Secrets) ([]byte, error) { return t.Render(s.masked(), opts) })
	return f, nil
}

// show is what may be shown of a file. again makes the file without secrets;
// nil says that a program made it.
func (r *renderer) show(again func(*Secrets) ([]byte, error)) shown {
	if r.Original {
		return nil
	}
	return &rendered{r, again}
}

// place is where a file is: a name in an open directory, and what kind of file
// that is said to be.
type place struct {
	dir  int
	name string
	kind fs.FileMode
}

// readRegular reads a template, which is path in errors, into buf where it is
// large enough. Anything but a file is
// an error before it is opened, since opening a pipe waits and opening a device
// may do something.
func (p place) readRegular(path string, buf []byte) ([]byte, fs.FileMode, error) {
	var st unix.Stat_t
	flags := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC
	if p.kind.IsRegular() {
		flags |= unix.O_NOFOLLOW
	} else if err := unix.Fstatat(p.dir, p.name, &st, 0); err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: path, Err: err}
	} else if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, 0, notRegular(path)
	}
	fd, err := unix.Openat(p.dir, p.name, flags, 0)
	if err != nil {
		return nil, 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, 0, notRegular(path)
	}
	if st.Size > maxOutput {
		return nil, 0, command.BadInput(fmt.Errorf("%s: larger than %d MiB", path, maxOutput>>20),
			"copy large files in install.d instead")
	}
	text, err := readAll(fd, st.Size, buf)
	if err != nil {
		err = &fs.PathError{Op: "read", Path: path, Err: err}
	}
	return text, fs.FileMode(st.Mode & 0o777), err
}

func notRegular(path string) error {
	return command.BadInput(fmt.Errorf("%s: not a regular file", path), "a template tree holds files and directories")
}

// executable says that this process may execute the file.
func executable(path string, mode fs.FileMode) bool {
	return mode&0o111 != 0 && (os.Getuid() == 0 || unix.Access(path, unix.X_OK) == nil)
}

// newlines makes every line end in LF, as Python does when it reads text.
func newlines(s string) string {
	if !strings.Contains(s, "\r") {
		return s
	}
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\r", "\n")
}

// partial reads NAME.mustache from the current directory, as the original
// does; no known template tree uses one.
func partial(name string) (text string, ok bool, err error) {
	path := name + ".mustache"
	if !filepath.IsLocal(path) {
		return "", false, command.BadInput(fmt.Errorf("partial %q: outside the current directory", name),
			"partials are files NAME.mustache of the directory that applycfg is started in")
	}
	b, _, err := place{unix.AT_FDCWD, path, fs.ModeIrregular}.readRegular(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return "", false, nil
	case err == nil && !utf8.Valid(b):
		err = command.BadInput(fmt.Errorf("partial %s: not UTF-8", path), "templates are text")
	}
	return string(b), err == nil, err
}

// remedied makes a template's error one of the command line's.
func remedied(err error) error {
	if e, ok := errors.AsType[*template.Error](err); ok {
		return command.BadInput(err, e.Remedy)
	}
	return err
}

// run runs an executable template. What it says on standard error is shown
// only when it fails, and without secrets of the metadata.
func (r *renderer) run(ctx context.Context, src string) ([]byte, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var body bytes.Buffer
	limit := &limited{w: &body, left: maxOutput, full: func() {
		stop(fmt.Errorf("template %s: prints more than %d MiB", src, maxOutput>>20))
	}}
	x := command.Exec{Args: []string{src}, Stdin: strings.NewReader(metadata.JSON(r.doc)), Stdout: limit}
	if err := x.Run(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if exit, ok := errors.AsType[*command.ExitError](err); ok {
			exit.Tail = r.withoutSecrets(exit.Tail)
		}
		return nil, command.Hint(fmt.Errorf("template %w", err), "run it by hand with the metadata on standard input")
	}
	if !utf8.Valid(body.Bytes()) {
		return nil, fmt.Errorf("template %s: its output is not UTF-8", src)
	}
	return body.Bytes(), nil
}

// limited is a writer that takes so many bytes and calls full when more come.
type limited struct {
	w    io.Writer
	left int
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		l.full()
		return len(p), nil
	}
	l.left -= len(p)
	return l.w.Write(p)
}
