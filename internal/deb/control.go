package deb

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Control is what a package says about itself.
type Control struct {
	// Files are the control files by name: control, md5sums, conffiles,
	// triggers, maintainer scripts.
	Files map[string][]byte
	// Fields are the fields of the file control by name, continuation lines
	// and all, without the white space around them.
	Fields map[string]string
}

const (
	maxControl      = 32 << 20 // bytes of all control files together
	maxControlFiles = 256
)

// Control reads the control files.
func (d *File) Control() (*Control, error) {
	c, err := d.readControl()
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", d.f.Name(), d.control.name, err)
	}
	return c, nil
}

func (d *File) readControl() (*Control, error) {
	r, err := unpacker(d.control.name, io.NewSectionReader(d.f, d.control.offset, d.control.size))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	c := &Control{Files: map[string][]byte{}}
	total := 0
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + h.Name)[1:]
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if strings.ContainsAny(name, "/\x00") || name == "" || strings.HasPrefix(name, ".") {
			return nil, fmt.Errorf("bad file name %q", h.Name)
		}
		b, err := io.ReadAll(io.LimitReader(tr, maxControl))
		if err != nil {
			return nil, err
		}
		c.Files[name] = b
		if total += len(b); total >= maxControl || len(c.Files) > maxControlFiles {
			return nil, errors.New("too large")
		}
	}
	c.Fields, err = parseFields(string(c.Files["control"]))
	return c, err
}

// unpacker decompresses in this process, which is right for small members.
func unpacker(name string, r io.Reader) (io.ReadCloser, error) {
	switch path.Ext(name) {
	case ".tar":
		return io.NopCloser(r), nil
	case ".gz":
		return gzip.NewReader(bufio.NewReader(r))
	case ".xz":
		x, err := xz.NewReader(bufio.NewReader(r))
		return io.NopCloser(x), err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(1<<30))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, errors.New("compressed in an unknown way: expected gz, xz or zst")
}

// parseFields reads one paragraph, deb-control(5).
func parseFields(text string) (map[string]string, error) {
	fields := map[string]string{}
	last := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n\r \t")
		switch {
		case line == "":
			continue
		case line[0] == ' ' || line[0] == '\t':
			if last == "" {
				return nil, errors.New("control: begins with a continuation line")
			}
			fields[last] += "\n" + line
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(name, " \t") {
			return nil, fmt.Errorf("control: %q is not a field", line)
		}
		last = name
		fields[last] = strings.TrimSpace(value)
	}
	for _, name := range []string{"Package", "Version", "Architecture"} {
		if v := fields[name]; v == "" || strings.ContainsAny(v, "/\n ") || strings.HasPrefix(v, ".") {
			return nil, fmt.Errorf("control: %s is %q", name, v)
		}
	}
	return fields, nil
}
