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
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/pkginstall"
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
	log, err := createLog(b.logPath)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
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

// createLog makes the log anew: never through a link or into another file,
// which the superuser could write to wherever it is.
func createLog(path string) (*os.File, error) {
	if fi, err := os.Lstat(path); err == nil && fi.IsDir() {
		return nil, command.BadInput(fmt.Errorf("%s: the log's place is taken by a directory", path), "")
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("old log: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	return f, nil
}

// resolve decides elements and packages before anything is made.
func (b *build) resolve() error {
	var err error
	if b.elements, err = b.opts.Elements.Resolve(b.def.Elements); err != nil {
		return err
	}
	asked, err := b.askedPackages()
	if err != nil {
		return err
	}
	b.packages = slices.Compact(slices.Sorted(slices.Values(append(asked, b.def.Packages...))))
	return nil
}

// askedPackages returns what the elements install, in all phases: the base
// tree is made with all of it in one transaction. What would have to go again
// later is refused rather than left in the image.
func (b *build) askedPackages() ([]string, error) {
	env := pkginstall.Environment{"DISTRO_NAME": b.distribution(), "DIB_PYTHON_VERSION": "3"}
	maps.Copy(env, b.def.Environment)
	env["ARCH"], env["DIB_RELEASE"] = b.def.Arch, b.def.Release
	plan, warnings, err := pkginstall.Squash(b.elements, env)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		b.progress.Info("warning: %s", w)
	}
	for _, phase := range pkginstall.Phases {
		for _, e := range plan[phase].Uninstall {
			return nil, command.BadInput(fmt.Errorf("element %s: package %s is to be removed again, which is not supported yet", e.Element, e.Package),
				"leave out uninstall and build-only, or remove it in a finalise.d hook")
		}
	}
	return plan.Install(b.elements, env)
}

// distribution is the name by which pkg-map files call the operating system:
// that of the element that provides it, without what follows a dash
// (debian-minimal).
func (b *build) distribution() string {
	for _, e := range b.elements {
		if slices.Contains(e.Provides, element.OperatingSystem) {
			name, _, _ := strings.Cut(e.Name, "-")
			return name
		}
	}
	return ""
}

// checkPrograms finds our own programs before the long work starts.
func (b *build) checkPrograms() error {
	if slices.ContainsFunc(b.def.Outputs, func(o string) bool { return formats[o].disk }) {
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
	restore, err := lendResolvConf(root, "/etc/resolv.conf")
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
	if err := normalise(t, b.base.epoch); err != nil {
		return nil, none, err
	}
	return t, b.base.epoch, nil
}

func (b *build) hasHooks(p phase) bool {
	_, err := os.Stat(filepath.Join(b.hooks, p.name))
	return err == nil
}

func elementNames(els []*element.Element) []string {
	names := map[string]bool{}
	for _, e := range els {
		names[e.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
