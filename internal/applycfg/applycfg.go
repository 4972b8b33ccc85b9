// Package applycfg writes configuration files: a tree of mustache templates
// and a metadata document make a tree of files.
//
// The template tree mirrors the destination: the template etc/redis/redis.conf
// makes /etc/redis/redis.conf. A template that is executable is run instead,
// with the metadata as JSON on its standard input. Beside a template NAME may
// lie NAME.oac, which gives the file its mode, owner and group, or says that
// an empty file is not to be there.
//
// It is all or nothing: [Render] makes every file before [Output.Apply]
// touches one, and Apply prepares every file beside its destination before it
// renames the first. A file that is already as it should be is left alone.
// Nothing outside the output directory is written, whatever symbolic links
// lie in it.
package applycfg

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// DefaultTemplates is where elements put their templates.
const DefaultTemplates = "/usr/libexec/os-apply-config/templates"

// File is one rendered file.
type File struct {
	Path    string // below the output directory, without a leading slash
	Body    []byte
	Control Control
}

// Render makes every file of the template tree, in the order of their paths.
// Nothing is written. The error names the template, and the line where that
// is known.
func Render(ctx context.Context, templates string, doc *metadata.Object) ([]File, error) {
	paths, err := walk(templates)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, path := range paths {
		src := filepath.Join(templates, path)
		control, err := readControl(src + controlSuffix)
		if err != nil {
			return nil, err
		}
		body, err := renderOne(ctx, src, doc)
		if err != nil {
			return nil, err
		}
		files = append(files, File{path, body, control})
	}
	return files, nil
}

// controlSuffix ends the names of control files.
const controlSuffix = ".oac"

// walk lists the templates. As in the original, links to files are followed,
// links to directories are not; the root itself may be a link.
func walk(root string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(root+"/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() || strings.HasSuffix(path, controlSuffix) {
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if fi, err := os.Stat(path); err == nil && fi.IsDir() {
				return nil
			}
		}
		rel, err := filepath.Rel(root, path)
		paths = append(paths, rel)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, command.BadInput(err, "name a directory of templates with --templates")
	}
	return paths, err
}

func renderOne(ctx context.Context, src string, doc *metadata.Object) ([]byte, error) {
	fi, err := os.Stat(src)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, command.BadInput(fmt.Errorf("%s: not a regular file", src), "a template tree holds files and directories")
	}
	if unix.Faccessat(unix.AT_FDCWD, src, unix.X_OK, unix.AT_EACCESS) == nil {
		return runTemplate(ctx, src, doc)
	}
	text, err := os.ReadFile(src)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(text) {
		return nil, command.BadInput(fmt.Errorf("%s: not UTF-8", src), "templates are text; copy other files in install.d")
	}
	t, err := template.Parse(src, newlines(string(text)))
	if err != nil {
		return nil, remedied(err)
	}
	var b bytes.Buffer
	if err := t.Render(&b, doc, template.Options{Text: metadata.JSON, Partial: partial}); err != nil {
		return nil, remedied(err)
	}
	return b.Bytes(), nil
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
func partial(name string) (string, bool) {
	if !filepath.IsLocal(name) {
		return "", false
	}
	text, err := os.ReadFile(name + ".mustache")
	return newlines(string(text)), err == nil
}

// remedied makes a template's error one of the command line's.
func remedied(err error) error {
	if e, ok := errors.AsType[*template.Error](err); ok {
		return command.BadInput(err, e.Remedy)
	}
	return err
}

// runTemplate runs an executable template. What it says on standard error is
// shown only when it fails.
func runTemplate(ctx context.Context, src string, doc *metadata.Object) ([]byte, error) {
	path, err := filepath.Abs(src)
	if err != nil {
		return nil, err
	}
	x := command.Exec{Args: []string{path}, Stdin: strings.NewReader(metadata.JSON(doc))}
	body, err := x.Output(ctx)
	if err != nil {
		return nil, command.Hint(fmt.Errorf("template %w", err), "run it by hand with the metadata on standard input")
	}
	if !utf8.Valid(body) {
		return nil, fmt.Errorf("template %s: its output is not UTF-8", src)
	}
	return body, nil
}
