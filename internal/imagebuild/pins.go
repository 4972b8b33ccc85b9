package imagebuild

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/apt"
	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/sourcerepo"
)

// LockName is the name of the file, beside image definitions, that pins what
// their images are made of.
const LockName = "imgbuild.lock"

// lockFormat is what that file begins with.
const lockFormat = "imgbuild.lock/1"

// lockFile is the file: pins by the name of the image.
type lockFile struct {
	Format string           `json:"format"`
	Images map[string]*Pins `json:"images"`
}

// Pins are what an image is made of: each package by version and digest, each
// source by commit or digest.
type Pins struct {
	Release  string           `json:"release"`
	Arch     string           `json:"arch"`
	Mirror   []string         `json:"mirror,omitempty"` // of the definition
	Asked    []string         `json:"asked"`            // packages that elements and definition name
	Packages *apt.Plan        `json:"packages,omitempty"`
	Sources  []sourcerepo.Pin `json:"sources,omitempty"`
}

// Names in the directories GOLDSMITH_LOCK, which is what is pinned, and
// GOLDSMITH_PINS, which is what hooks fetched.
const (
	pinnedName   = "lock"
	fetchedName  = "pins"
	packagesPins = "packages.json"
	sourcesPins  = "sources.json"
	sourcesNotes = "sources.jsonl"
)

func readLock(path string) (*lockFile, error) {
	l := &lockFile{Format: lockFormat, Images: map[string]*Pins{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(l); err != nil {
		line := 1 + bytes.Count(text[:min(d.InputOffset(), int64(len(text)))], []byte("\n"))
		if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			err = fmt.Errorf("%s: a %s does not belong there", e.Field, e.Value)
		}
		return nil, command.BadInput(fmt.Errorf("%s:%d: %w", path, line, err), "imgbuild lock --update writes it anew once it is removed")
	}
	if rest := bytes.TrimSpace(text[d.InputOffset():]); len(rest) > 0 {
		line := 1 + bytes.Count(text[:len(text)-len(rest)], []byte("\n"))
		return nil, command.BadInput(fmt.Errorf("%s:%d: something follows the object", path, line), "a merge may have left it")
	}
	if l.Format != lockFormat {
		return nil, command.BadInput(fmt.Errorf("%s: format %q: expected %q", path, l.Format, lockFormat), "it is of another version of imgbuild")
	}
	return l, nil
}

// choosePins decides what is pinned. A lock that does not fit the definition is
// an error where one is demanded, and otherwise left alone.
func (b *build) choosePins() error {
	if b.opts.Lock == "" {
		return nil
	}
	l, err := readLock(b.opts.Lock)
	if err != nil {
		return err
	}
	pins := l.Images[b.def.Name]
	if pins == nil && !b.opts.Locked {
		return nil
	}
	why := "does not have the image " + b.def.Name
	if pins != nil {
		why = strings.Join(b.drift(pins), "; it ")
	}
	switch {
	case why == "":
		b.pins = pins
	case b.opts.Locked:
		return command.BadInput(fmt.Errorf("%s %s", b.opts.Lock, why), "imgbuild lock --update pins what the definition asks for now")
	default:
		b.progress.Info("warning: %s %s: nothing is pinned (imgbuild lock --update)", b.opts.Lock, why)
	}
	return nil
}

// drift says in what a definition and its elements differ from what was
// pinned for them, each a sentence about the lock file.
func (b *build) drift(p *Pins) []string {
	var out []string
	if p.Release != b.def.Release {
		out = append(out, fmt.Sprintf("pins the release %s, the definition has %s", p.Release, b.def.Release))
	}
	if p.Arch != b.def.Arch {
		out = append(out, fmt.Sprintf("pins packages for %s, the definition has %s", p.Arch, b.def.Arch))
	}
	if !slices.Equal(p.Mirror, b.def.Mirror) {
		out = append(out, "pins packages of other mirrors")
	}
	for _, name := range b.packages {
		if !slices.Contains(p.Asked, name) {
			out = append(out, "does not pin the package "+name)
		}
	}
	for _, name := range p.Asked {
		if !slices.Contains(b.packages, name) {
			out = append(out, fmt.Sprintf("pins the package %s, which nothing asks for", name))
		}
	}
	env := b.settings(treePhases[0])
	if env["NO_SOURCE_REPOSITORIES"] != "" {
		return out
	}
	unasked := map[string]bool{}
	for _, s := range p.Sources {
		unasked[s.Name] = s.Type != "url" // what hooks fetch nobody knows before they do
	}
	for _, e := range b.elements {
		for _, what := range sourcerepo.Unpinned(e.Dir, env, p.Sources) {
			out = append(out, "does not pin "+what)
		}
		names, whole := sourcerepo.Names(e.Dir)
		if !whole {
			clear(unasked)
		}
		for _, name := range names {
			delete(unasked, name)
		}
	}
	for _, s := range p.Sources {
		if unasked[s.Name] {
			out = append(out, fmt.Sprintf("pins %s %s %s, which nothing asks for", s.Type, s.Name, s.Location))
		}
	}
	return out
}

// some joins the first few of a list.
func some(list []string, between string) string {
	const most = 3
	text := strings.Join(list[:min(len(list), most)], between)
	if n := len(list) - most; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// pinInputs are the files that hooks read of what is pinned, by name.
func (b *build) pinInputs() (map[string][]byte, error) {
	files := map[string][]byte{}
	if b.pins == nil {
		return files, nil
	}
	sources := b.pins.Sources
	if sources == nil {
		sources = []sourcerepo.Pin{}
	}
	var err error
	if files[sourcesPins], err = encode(sources); err != nil {
		return nil, err
	}
	if b.pins.Packages != nil {
		files[packagesPins], err = encode(b.pins.Packages)
	}
	return files, err
}

// writePins gives hooks what is pinned, and room for what they fetch.
func (b *build) writePins(at string) error {
	files, err := b.pinInputs()
	if err != nil {
		return err
	}
	for _, dir := range []string{pinnedName, fetchedName} {
		if err := os.MkdirAll(filepath.Join(at, dir), 0o755); err != nil {
			return err
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(at, pinnedName, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// pinned are the inputs of a step of the phase that is told what is pinned: the
// packages for root.d, the sources for the others.
func (b *build) pinned(p phase) (inputs, error) {
	in := inputs{}
	files, err := b.pinInputs()
	if b.pins == nil || err != nil {
		return in, err
	}
	if p != rootPhase {
		for what, is := range (&Pins{Sources: b.pins.Sources}).flat() {
			in["pinned "+what] = is
		}
		in[lockInput] = sum(files[sourcesPins])
		return in, nil
	}
	for what, is := range (&Pins{Packages: b.pins.Packages}).flat() {
		in["pinned "+what] = is
	}
	in[lockInput] = sum(files[packagesPins])
	return in, nil
}

// lockInput is all that is pinned for a step: it changes with each pin.
const lockInput = LockName

// fetched reads what the steps of this image fetched.
func (b *build) fetched() (*Pins, error) {
	p := &Pins{Release: b.def.Release, Arch: b.def.Arch, Mirror: b.def.Mirror, Asked: append([]string{}, b.packages...)}
	dir := filepath.Join(b.dir(), fetchedName)
	text, err := os.ReadFile(filepath.Join(dir, packagesPins))
	switch {
	case errors.Is(err, fs.ErrNotExist): // another operating system's element
	case err != nil:
		return nil, err
	default:
		if p.Packages, err = apt.ParsePlan(text); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(dir, sourcesNotes))
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		var pin sourcerepo.Pin
		if err := json.Unmarshal(s.Bytes(), &pin); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		p.Sources = append(p.Sources, pin)
	}
	slices.SortFunc(p.Sources, func(a, b sourcerepo.Pin) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Location, b.Location), cmp.Compare(a.Ref, b.Ref))
	})
	p.Sources = slices.Compact(p.Sources)
	return p, nil
}

// checkPinned holds the packages of a finished image to what is pinned: a hook
// may have installed others.
func (b *build) checkPinned(installed []dpkg.Package) error {
	if b.pins == nil || b.pins.Packages == nil {
		return nil
	}
	want := map[string]string{}
	for _, p := range b.pins.Packages.Packages {
		want[p.Name] = p.Version
	}
	for _, p := range installed {
		version, ok := want[p.Name]
		what := fmt.Sprintf("package %s %s is in the image and not in %s", p.Name, p.Version, b.opts.Lock)
		switch {
		case ok && version == p.Version:
			continue
		case ok:
			what += ", which has " + version
		}
		if b.opts.Locked {
			return command.Hint(errors.New(what), "a hook installed it: ask for it in package-installs.yaml or the definition")
		}
		b.progress.Info("warning: %s", what)
	}
	return nil
}

// Move is a pin that is another now.
type Move struct {
	What string `json:"what"`           // such as "package bash", "git nova"
	From string `json:"from,omitempty"` // empty: new
	To   string `json:"to,omitempty"`   // empty: gone
}

// UpdateLock finds out what the image is made of, as far as it is fetched, and
// writes it into the lock file opts.Lock. With opts.Refresh that is what there
// is now, otherwise what is pinned stays and what fits is an empty result. The
// steps it runs are kept for the build.
func UpdateLock(ctx context.Context, def *Definition, opts Options) (_ []Move, err error) {
	l, err := readLock(opts.Lock)
	if err != nil {
		return nil, err
	}
	given := opts.Lock
	opts.Lock = ""
	b, err := open(ctx, def, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	old := l.Images[def.Name]
	if old != nil && !opts.Refresh {
		if why := b.drift(old); why != nil {
			return nil, command.BadInput(fmt.Errorf("%s %s", given, strings.Join(why, "; it ")), "imgbuild lock --update pins all anew")
		}
		return nil, nil
	}
	pins, err := b.fetch(ctx)
	if err != nil {
		return nil, err
	}
	l.Images[def.Name] = pins
	text, err := encode(l)
	if err != nil {
		return nil, err
	}
	return moves(old, pins), atomicfile.Write(given, text, 0o644)
}

// fetch runs the steps that fetch.
func (b *build) fetch(ctx context.Context) (*Pins, error) {
	r, err := b.newResumer()
	if err != nil {
		return nil, err
	}
	if err := b.baseTree(ctx, r); err != nil {
		return nil, err
	}
	if err := r.phase(ctx, treePhases[0]); err != nil {
		return nil, err
	}
	r.say()
	if err := b.state.open(); err != nil {
		return nil, err
	}
	return b.fetched()
}

// moves are the differences of two sets of pins, sorted.
func moves(old, now *Pins) []Move {
	from, to := old.flat(), now.flat()
	var out []Move
	names := maps.Clone(from)
	maps.Copy(names, to)
	for _, what := range slices.Sorted(maps.Keys(names)) {
		if from[what] != to[what] {
			out = append(out, Move{what, from[what], to[what]})
		}
	}
	return out
}

// flat gives every pin a name and a value.
func (p *Pins) flat() map[string]string {
	out := map[string]string{}
	if p == nil {
		return out
	}
	if p.Packages != nil {
		for _, q := range p.Packages.Packages {
			out["package "+q.Name] = q.Version + " " + q.SHA256[:min(12, len(q.SHA256))]
		}
	}
	for _, s := range p.Sources {
		out[strings.Join(slices.DeleteFunc([]string{s.Type, s.Name, s.Location, s.Ref}, func(w string) bool { return w == "" }), " ")] = s.Commit + s.SHA256
	}
	return out
}
