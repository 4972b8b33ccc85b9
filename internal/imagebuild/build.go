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

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/element"
	"goldsmith/internal/filelist"
	"goldsmith/internal/hooklib"
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
	// Lock is the lock file, which pins what is fetched where it has the image;
	// empty means none. Locked demands that it does, and fits.
	Lock   string
	Locked bool
	// Offline lets nothing reach a network: what is not in the cache fails.
	Offline bool
	// HookTimeout is how long one hook may run; 0 means for ever.
	HookTimeout time.Duration
	// Faketime is libfaketime's file, which shows programs of hooks a clock
	// that is ahead; empty means the clock as it is. No step's key names it:
	// use it with a cache of its own.
	Faketime string
	Progress *command.Progress
	// Compat makes the build diskimage-builder's; nil means our own.
	Compat *Compat
}

// Compat is what diskimage-builder's commands ask for beyond a definition.
type Compat struct {
	Environ         map[string]string // the caller's environment, with what flags export
	Caller          map[string]string // the caller's environment alone
	Args            []string          // the command line, without the program
	ImageName       string            // as it was given, directories included
	ImageCache      string            // directory for what elements download
	LockFiles       string            // directory for their locks
	Packages        []string          // installed after install.d
	RootLabel       string            // of the file system mkfs_root; empty means the original's default
	MkfsOptions     string            // for it, separated by blanks
	MaxOnlineResize string            // blocks, for mkfs -E resize=
	QemuImgOptions  string            // for qemu-img convert -o
	DockerTarget    string            // the name that the output docker gets there
	// NoImage makes no disk and no archive: what hooks leave is the result, as
	// for a ramdisk.
	NoImage bool
	Log     io.Writer // receives the build's whole output
	LogName string    // where that is, for messages; empty where there is no file
}

// Result says what was built.
type Result struct {
	Manifest string   `json:"manifest"` // path of NAME.manifest.json
	Log      string   `json:"log"`      // path of NAME.build.log
	Outputs  []Output `json:"outputs"`

	saved []string // paths of what hooks left beside the outputs
}

// build is the state of one build.
type build struct {
	def      *Definition
	opts     Options
	progress *command.Progress
	elements []*element.Element
	packages []string
	outputs  []string // names of formats
	pins     *Pins    // nil where nothing is pinned
	layout   *layout  // nil for goldsmith's own disk
	cache    *cache
	work     *work
	state    *state          // what steps work on; nil for diskimage-builder's commands, which keep nothing
	cwd      string          // the caller's working directory, where hooks see that
	epoch    time.Time       // no file of a goldsmith image is newer
	disk     *os.File        // that the phases made, nil where outputs make it
	lent     bool            // the tree's resolv.conf is the host's
	files    []filelist.File // of the image, once they are known
	timeline timeline
	count    command.Count // of steps, as they were last shown
	log      io.Writer
	logPath  string
}

// Build makes the image. It needs the namespaces of [rootfs.Isolate].
func Build(ctx context.Context, def *Definition, opts Options) (_ *Result, err error) {
	b, err := open(ctx, def, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := os.MkdirAll(opts.Out, 0o755); err != nil {
		return nil, fmt.Errorf("output directory: %w", err)
	}
	if c := opts.Compat; c != nil {
		b.log, b.logPath = c.Log, c.LogName
		t, err := b.treeInOneGo(ctx)
		if err != nil {
			return nil, err
		}
		return b.writeOutputs(ctx, t)
	}
	log, err := newLog(filepath.Join(opts.Out, def.Name+".build.log"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	b.log, b.logPath = log, log.path
	return b.buildBySteps(ctx)
}

// open decides what is built, checks what can be checked, and takes a scratch
// directory.
func open(ctx context.Context, def *Definition, opts Options) (_ *build, err error) {
	if !rootfs.Isolated() {
		return nil, errors.New("a build needs the namespaces of rootfs.Isolate")
	}
	b := &build{def: def, opts: opts, progress: opts.Progress, work: &work{}, log: io.Discard, timeline: newTimeline()}
	if opts.Compat != nil {
		if b.cwd, err = os.Getwd(); err != nil {
			return nil, err
		}
	}
	if err := b.resolve(); err != nil {
		return nil, err
	}
	if err := b.checkArch(); err != nil {
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
	return b, nil
}

// close releases what the build holds.
func (b *build) close() error {
	var err error
	if b.disk != nil {
		err = b.disk.Close()
	}
	if b.state != nil {
		err = errors.Join(err, b.state.close())
	}
	return errors.Join(err, b.work.close())
}

// resolve decides elements, packages and the disk before anything is made.
func (b *build) resolve() error {
	var err error
	if b.elements, err = b.opts.Elements.Resolve(b.def.Elements); err != nil {
		return err
	}
	if err := b.checkFiles(); err != nil {
		return err
	}
	// Before anything is built: a key that cannot be used.
	if err := b.def.SecureBoot.addTo(&disk.Config{}); err != nil {
		return err
	}
	if b.opts.Compat == nil {
		asked, err := b.askedPackages()
		if err != nil {
			return err
		}
		b.packages = slices.Compact(slices.Sorted(slices.Values(append(asked, b.def.Packages...))))
		if err := b.choosePins(); err != nil {
			return err
		}
	}
	if c := b.opts.Compat; c != nil {
		b.outputs = compatFiles(c, b.def.Outputs, elementNames(b.elements))
	} else {
		b.outputs = b.def.Outputs
	}
	return b.chooseLayout()
}

// askedPackages returns what the elements install, in all phases: the base
// tree is made with all of it in one transaction. What has to go again goes at
// the end of its phase, by the element package-installs.
func (b *build) askedPackages() ([]string, error) {
	env := pkginstall.Environment{"DISTRO_NAME": b.distribution(), "DIB_PYTHON_VERSION": "3"}
	maps.Copy(env, b.def.Environment)
	env["ARCH"], env["DIB_RELEASE"] = b.def.Arch, b.def.Release
	if err := addDefaults(env, b.elements); err != nil {
		return nil, err
	}
	plan, warnings, err := pkginstall.Squash(b.elements, env)
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		b.progress.Info("warning: %s", w)
	}
	if !slices.ContainsFunc(b.elements, func(e *element.Element) bool { return e.Name == "package-installs" }) {
		for _, phase := range pkginstall.Phases {
			for _, e := range plan[phase].Uninstall {
				return nil, command.BadInput(fmt.Errorf("element %s: package %s is to be removed again, and nothing would do it", e.Element, e.Package),
					"add the element package-installs")
			}
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

// prepare fills the directory at, which hooks will see as b.dir(): the merged
// hooks, the library that they source, and what they are told of the disk.
func (b *build) prepare(at string) error {
	if err := element.MergeHooks(b.elements, filepath.Join(at, hooksName)); err != nil {
		return err
	}
	if err := b.lendFaketime(filepath.Join(at, hooksName)); err != nil {
		return err
	}
	if err := hooklib.Write(filepath.Join(at, libName)); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(at, packagesName), []byte(strings.Join(b.packages, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	if err := b.writePins(at); err != nil {
		return err
	}
	host := b.paths("")
	for _, dir := range []string{filepath.Join(at, treeName), filepath.Join(at, imageName), host["DIB_IMAGE_CACHE"], host["DIB_LOCKFILES"]} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if b.layout == nil {
		return nil
	}
	return b.layout.write(at, b.dir())
}

// treeInOneGo runs all phases one after the other, as diskimage-builder does,
// and returns the finished tree. Nothing is kept of it.
func (b *build) treeInOneGo(ctx context.Context) (*tree.Tree, error) {
	if err := b.prepare(b.dir()); err != nil {
		return nil, err
	}
	root, started := b.root(), time.Now()
	if err := b.runPhases(ctx, []phase{rootPhase}); err != nil {
		return nil, err
	}
	if err := checkBase(root); err != nil {
		return nil, err
	}
	var err error
	if b.epoch, _, err = newestBefore(root, started); err != nil {
		return nil, err
	}
	if err := b.lateEnvironment(b.hooks()); err != nil {
		return nil, err
	}
	if b.lent, err = lendResolvConf(root, hostResolvConf); err != nil {
		return nil, err
	}
	if err := b.runPhases(ctx, treePhases); err != nil {
		return nil, err
	}
	if b.needsMachine() {
		if err := b.diskInMachine(ctx); err != nil {
			return nil, err
		}
		return b.machineResult()
	}
	if err := b.describeDisk(); err != nil {
		return nil, err
	}
	if err := b.runPhases(ctx, diskPhases); err != nil {
		return nil, err
	}
	if err := rootfs.UnmountBelow(root); err != nil {
		return nil, err
	}
	if err := b.stageFor(diskPhases[0], root).finish(nil); err != nil {
		return nil, err
	}
	return tree.FromDir(root)
}

// lateEnvironment adds the snippet that hooks after root.d source: it names
// the default install type for those that run without our environment. An
// image without any snippet needs no bash, and gets none for it.
func (b *build) lateEnvironment(hooks string) error {
	dir := filepath.Join(hooks, "environment.d")
	if _, err := os.Stat(dir); os.IsNotExist(err) && b.opts.Compat == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	kind := b.settings(treePhases[0])["DIB_DEFAULT_INSTALLTYPE"]
	if kind == "" {
		kind = "source"
	}
	line := fmt.Sprintf("export DIB_DEFAULT_INSTALLTYPE=${DIB_DEFAULT_INSTALLTYPE:-%q}\n", kind)
	return os.WriteFile(filepath.Join(dir, "11-dib-install-type.bash"), []byte(line), 0o644)
}

// runPhases runs those of the phases that have something to do.
func (b *build) runPhases(ctx context.Context, list []phase) error {
	for _, p := range list {
		s := b.stageFor(p, b.root())
		if s.has(p) {
			step := b.progress.Start(p.name)
			err := s.run(ctx, p, nil)
			step.Done(err, "")
			if err != nil {
				return err
			}
		}
		if p.name == "install.d" {
			if err := b.installExtra(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// installExtra installs the packages of the command line: inside, by whatever
// install-packages the elements brought, without environment.d, as the
// original does.
func (b *build) installExtra(ctx context.Context, s *stage) error {
	if b.opts.Compat == nil || len(b.opts.Compat.Packages) == 0 {
		return nil
	}
	inside := phase{"install.d", true}
	step := b.progress.Start("install packages")
	err := s.exec(inside)(ctx, command.Exec{
		Args: append([]string{"install-packages"}, b.opts.Compat.Packages...), Env: s.environment(inside), Log: b.log,
	})
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		err = &HookError{Hook: "install-packages", Status: x.Status, text: x.Error()}
	}
	step.Done(err, "")
	return err
}

func elementNames(els []*element.Element) []string {
	names := map[string]bool{}
	for _, e := range els {
		names[e.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
