// Package applycfg writes configuration files: a tree of mustache templates
// and a metadata document make a tree of files.
//
// The template tree mirrors the destination: the template etc/redis/redis.conf
// makes /etc/redis/redis.conf. A template that is executable is run instead,
// with the metadata as JSON on its standard input. Beside a template NAME may
// lie NAME.oac, which gives the file its mode, owner and group, or says that
// an empty file is not to be there.
//
// It is all or nothing: [Templates.Render] makes every file before
// [Output.Apply] touches one, and Apply writes and flushes every file beside
// its destination, and a journal of what is to be done, before it renames the
// first. What a killed run began, the next one finishes or undoes. A file that
// is already as it should be is left alone. Nothing outside the output
// directory is written, whatever symbolic links lie in it.
package applycfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/metadata"
	"goldsmith/internal/template"
)

// DefaultTemplates is where elements put their templates.
const DefaultTemplates = "/usr/libexec/os-apply-config/templates"

// TemplatesDir is where templates are when nobody says so: OS_CONFIG_APPLIER_TEMPLATES
// of the environment, else one of the original's former directories if it is
// there and DefaultTemplates is not (deprecated is true then), else
// DefaultTemplates.
func TemplatesDir() (dir string, deprecated bool) {
	if dir, ok := os.LookupEnv("OS_CONFIG_APPLIER_TEMPLATES"); ok {
		return dir, false
	}
	if !isDir(DefaultTemplates) {
		for _, old := range []string{"/opt/stack/os-apply-config/templates", "/opt/stack/os-config-applier/templates"} {
			if isDir(old) {
				return old, true
			}
		}
	}
	return DefaultTemplates, false
}

// Templates is a directory of templates.
type Templates struct {
	Dir string
	// Original is to render as os-apply-config does where ours is stricter: a
	// directory that is not there has no templates, a section that is never
	// closed loses text.
	Original bool
	// Secret says at and below which dotted keys values are secrets, which are
	// in no error; nil means SecretName.
	Secret func(key string) bool
	// Marked are the keys that a schema calls secret, whether the metadata have
	// them or not.
	Marked []string
	// Strict makes it an error when a template shows a key that the metadata
	// have not, or have as null. Sections may ask for such a key.
	Strict bool
	// Elsewhere says that the files are for another machine: owners and groups
	// are not looked up.
	Elsewhere bool
}

// File is one rendered file.
type File struct {
	Path    string // below the output directory, without a leading slash
	Body    []byte
	Control Control

	shown shown // nil: nobody knows
}

// controlSuffix ends the names of control files.
const controlSuffix = ".oac"

// Render makes every file of the template tree, in the order of their paths.
// Nothing is written. The error names the template, and the line where that
// is known.
func (t Templates) Render(ctx context.Context, doc *metadata.Object) ([]File, error) {
	r := &renderer{Templates: t, doc: doc}
	r.make = r.file
	err := r.directory(ctx, "")
	if err != nil {
		return nil, err
	}
	// As of the whole paths, not directory by directory.
	slices.SortFunc(r.files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return r.files, nil
}

// Shown is the file's text as it may be shown: with secrets masked. Of what an
// executable template makes of metadata with secrets, every line is one; so it
// is with Templates.Original, which knows no schema.
func (f *File) Shown() string { return strings.Join(maskedLines(f.shown, string(f.Body)), "") }

// Parsed is a template that was read and not rendered.
type Parsed struct {
	Source string // the template's path
	// Template is nil for an executable one, of which only running it tells.
	*template.Template
}

// Uses lists the keys that the template reads; of an executable one none.
func (p Parsed) Uses() []template.Use {
	if p.Template == nil {
		return nil
	}
	return p.Template.Uses()
}

// Parse reads every template and control file of the tree, in the order of
// their paths, and runs none. Owners and groups are not looked up.
func (t Templates) Parse() ([]Parsed, error) {
	t.Elsewhere = true
	r := &renderer{Templates: t}
	var all []Parsed
	r.make = func(_ context.Context, rel string) (File, error) {
		parsed, err := r.parse(rel)
		all = append(all, Parsed{r.source(rel), parsed})
		return File{Path: rel, Control: noControl}, err
	}
	if err := r.directory(context.Background(), ""); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Parsed) int { return strings.Compare(a.Source, b.Source) })
	return all, nil
}

// renderer is one rendering of a tree.
type renderer struct {
	Templates
	doc      *metadata.Object
	found    *Secrets // of the metadata, when somebody has asked
	accounts accounts
	at       place  // of the template that is being made
	text     []byte // of the template that was read last
	make     func(ctx context.Context, rel string) (File, error)
	files    []File
}

// directory renders the templates of one and of those below. As in the
// original, links to files are followed, links to directories are not; the
// root itself may be a link.
func (r *renderer) directory(ctx context.Context, rel string) error {
	dir, err := os.Open(r.source(rel))
	if err == nil {
		defer dir.Close()
	}
	entries, err := sorted(dir, err)
	if rel == "" && (r.Dir == "" || errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) {
		if r.Original {
			return nil
		}
		return command.BadInput(fmt.Errorf("templates %q: no such directory", r.Dir),
			"name a directory of templates with --templates")
	}
	if err != nil {
		return err
	}
	controls := map[string]bool{}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), controlSuffix) {
			controls[e.Name()] = true
		}
	}
	for _, e := range entries {
		path := rel + e.Name()
		if e.IsDir() {
			if err := r.directory(ctx, path+"/"); err != nil {
				return err
			}
			continue
		}
		if controls[e.Name()] || e.Type()&fs.ModeSymlink != 0 && isDir(r.source(path)) {
			continue
		}
		r.at = place{int(dir.Fd()), e.Name(), e.Type()}
		f, err := r.make(ctx, path)
		if err != nil {
			return err
		}
		if controls[e.Name()+controlSuffix] {
			accounts := &r.accounts
			if r.Elsewhere {
				accounts = nil
			}
			if f.Control, err = accounts.readControl(r.source(path) + controlSuffix); err != nil {
				return err
			}
		}
		r.files = append(r.files, f)
	}
	return ctx.Err()
}

// sorted are the entries of a directory, unless it could not be opened.
func sorted(dir *os.File, err error) ([]fs.DirEntry, error) {
	if err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, err
}

// secrets finds the metadata's secrets when they are asked for: to write files
// where nothing is remembered takes none.
func (r *renderer) secrets() *Secrets {
	if r.found == nil {
		r.found = r.FindSecrets(r.doc)
	}
	return r.found
}

// source is the path of a template.
func (r *renderer) source(rel string) string { return strings.TrimRight(r.Dir, "/") + "/" + rel }

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
