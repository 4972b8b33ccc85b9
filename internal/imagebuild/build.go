// Package imagebuild makes an image from a definition: it resolves the
// elements, makes the base tree (or takes it from the cache), runs the hooks
// of every phase on a copy of it, cleans the result of everything that belongs
// to this build rather than to the image, and writes the outputs.
//
// The same definition, elements and packages give the same bytes: no time,
// random number, host name or path of the build machine reaches an output.
// Outputs appear by rename when they are complete; a build that fails or is
// killed leaves none, and what it leaves in the cache directory the next build
// removes.
//
// It installs software and never configuration: that is written when a
// machine boots.
package imagebuild

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/tree"
)

// Options say how to build. Progress and Bin must be set.
type Options struct {
	Out      string       // directory for the outputs; made when it is not there
	Elements element.Path // where elements are found
	Cache    string       // cache directory; empty means the user's own
	Bin      string       // directory of our static programs, which elements install
	Refresh  bool         // make the base tree anew: packages as the mirror has them now
	Progress *command.Progress
}

// Result says what was built.
type Result struct {
	Manifest string   `json:"manifest"` // path of NAME.manifest.json
	Log      string   `json:"log"`      // path of NAME.build.log
	Outputs  []Output `json:"outputs"`
}

// build is the state of one build.
type build struct {
	def      *Definition
	opts     Options
	progress *command.Progress
	elements []*element.Element
	packages []string
	cache    *cache
	work     *work
	base     *base  // nil until it is there
	hooks    string // merged hooks tree
	log      io.Writer
	logPath  string
}

// Build makes the image. It needs the namespaces of [rootfs.Isolate].
func Build(ctx context.Context, def *Definition, opts Options) (_ *Result, err error) {
	if !rootfs.Isolated() {
		return nil, command.Missing(errors.New("a build needs mount namespaces"), "run it as root")
	}
	b := &build{def: def, opts: opts, progress: opts.Progress}
	if err := b.resolve(); err != nil {
		return nil, err
	}
	if err := b.checkPrograms(); err != nil {
		return nil, err
	}
	if b.cache, err = openCache(opts.Cache); err != nil {
		return nil, err
	}
	if b.work, err = b.cache.newWork(ctx, b.progress); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := os.MkdirAll(opts.Out, 0o755); err != nil {
		return nil, fmt.Errorf("output directory: %w", err)
	}
	b.logPath = filepath.Join(opts.Out, def.Name+".build.log")
	log, err := os.Create(b.logPath)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	b.log = log
	t, epoch, err := b.makeTree(ctx)
	if err != nil {
		return nil, err
	}
	return b.writeOutputs(ctx, t, epoch)
}

// close releases what the build holds; the base tree last, since the scratch
// directory is mounted over it.
func (b *build) close() error {
	err := b.work.close()
	if b.base != nil {
		err = errors.Join(err, b.base.close())
	}
	return err
}

// resolve decides elements and packages before anything is made.
func (b *build) resolve() error {
	var err error
	if b.elements, err = b.opts.Elements.Resolve(b.def.Elements); err != nil {
		return err
	}
	asked, err := element.Packages(b.elements, b.def.Arch)
	if err != nil {
		return err
	}
	b.packages = slices.Compact(slices.Sorted(slices.Values(append(asked, b.def.Packages...))))
	return nil
}

// checkPrograms finds our own programs before the long work starts.
func (b *build) checkPrograms() error {
	if slices.Contains(b.def.Outputs, "raw") {
		if _, err := os.Stat(filepath.Join(b.opts.Bin, "imginit")); err != nil {
			return command.Missing(fmt.Errorf("%s: imginit is not there", b.opts.Bin), "'make build' puts all programs into one directory")
		}
	}
	return nil
}

// makeTree runs all phases and returns the finished tree and the time that
// no file in it is newer than.
func (b *build) makeTree(ctx context.Context) (*tree.Tree, time.Time, error) {
	none := time.Time{}
	b.hooks = filepath.Join(b.work.dir, "hooks")
	if err := os.MkdirAll(b.hooks, 0o755); err != nil {
		return nil, none, err
	}
	if err := element.MergeHooks(b.elements, b.hooks); err != nil {
		return nil, none, err
	}
	var err error
	if b.base, err = b.makeBase(ctx); err != nil {
		return nil, none, err
	}
	root, err := rootfs.Overlay(b.base.root, b.work.dir)
	if err != nil {
		return nil, none, err
	}
	restore, err := lendResolvConf(root)
	if err != nil {
		return nil, none, err
	}
	for _, p := range phases {
		if !b.hasHooks(p) {
			continue
		}
		step := b.progress.Start(p.name)
		err := b.runPhase(ctx, p, root)
		step.Done(err, "")
		if err != nil {
			return nil, none, err
		}
	}
	if err := restore(); err != nil {
		return nil, none, err
	}
	// What a hook mounted on the tree is no part of the image.
	if err := rootfs.UnmountBelow(root); err != nil {
		return nil, none, err
	}
	t, err := tree.FromDir(root)
	if err != nil {
		return nil, none, err
	}
	normalise(t, b.base.epoch)
	return t, b.base.epoch, nil
}

func (b *build) hasHooks(p phase) bool {
	_, err := os.Stat(filepath.Join(b.hooks, p.name))
	return err == nil
}

// writeOutputs writes every output and, last, the manifest.
func (b *build) writeOutputs(ctx context.Context, t *tree.Tree, epoch time.Time) (*Result, error) {
	m, err := b.manifest(t)
	if err != nil {
		return nil, err
	}
	inside, err := encode(m)
	if err != nil {
		return nil, err
	}
	t.AddFile(manifestInside, 0o644, inside)
	t.ClampTimes(epoch)
	res := &Result{Manifest: filepath.Join(b.opts.Out, b.def.Name+".manifest.json"), Log: b.logPath}
	for _, format := range b.def.Outputs {
		step := b.progress.Start("write " + format)
		out, layout, err := b.writeOutput(ctx, format, t, epoch)
		if err != nil {
			step.Done(err, "")
			return nil, err
		}
		step.Done(nil, fmt.Sprintf("%s, %d MiB of data", out.Path, out.Data>>20))
		noted := *out
		noted.Path = filepath.Base(out.Path)
		m.Outputs = append(m.Outputs, noted)
		if layout != nil {
			m.Disk = layout
		}
		res.Outputs = append(res.Outputs, *out)
	}
	content, err := encode(m)
	if err != nil {
		return nil, err
	}
	return res, atomicfile.Write(res.Manifest, content, 0o644)
}

func encode(v any) ([]byte, error) {
	content, err := json.MarshalIndent(v, "", "  ")
	return append(content, '\n'), err
}

func elementNames(els []*element.Element) []string {
	names := map[string]bool{}
	for _, e := range els {
		names[e.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// lendResolvConf gives the tree the host's resolver configuration while hooks
// run, and returns a function that takes it back. As in diskimage-builder, the
// image's own file is resolv.conf.ORIG meanwhile, and a symbolic link that a
// hook made in its place stays.
func lendResolvConf(root string) (restore func() error, err error) {
	conf := filepath.Join(root, "etc/resolv.conf")
	host, err := os.ReadFile("/etc/resolv.conf")
	if os.IsNotExist(err) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(conf), 0o755); err != nil {
		return nil, err
	}
	if err := os.Rename(conf, conf+".ORIG"); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if err := os.WriteFile(conf, host, 0o644); err != nil {
		return nil, err
	}
	return func() error {
		if fi, err := os.Lstat(conf); err == nil && fi.Mode().IsRegular() {
			if err := os.Remove(conf); err != nil {
				return err
			}
			if err := os.Rename(conf+".ORIG", conf); err != nil && !os.IsNotExist(err) {
				return err
			}
			return nil
		}
		if err := os.Remove(conf + ".ORIG"); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}, nil
}
