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
	// HookTimeout is how long one hook may run; 0 means for ever.
	HookTimeout time.Duration
	Progress    *command.Progress
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
}

// build is the state of one build.
type build struct {
	def      *Definition
	opts     Options
	progress *command.Progress
	elements []*element.Element
	packages []string
	outputs  []string // names of formats
	layout   *layout  // nil for goldsmith's own disk
	cache    *cache
	work     *work
	base     *base     // nil until it is there, and where none is kept
	cwd      string    // working directory of hooks on the host: the caller's
	hooks    string    // merged hooks tree
	epoch    time.Time // no file of a goldsmith image is newer
	disk     *os.File  // that the phases made, nil where outputs make it
	lent     bool      // the tree's resolv.conf is the host's
	log      io.Writer
	logPath  string
}

// Build makes the image. It needs the namespaces of [rootfs.Isolate].
func Build(ctx context.Context, def *Definition, opts Options) (_ *Result, err error) {
	if !rootfs.Isolated() {
		return nil, command.Missing(errors.New("a build needs mount namespaces"), "run it as root")
	}
	b := &build{def: def, opts: opts, progress: opts.Progress, work: &work{}}
	if b.cwd, err = os.Getwd(); err != nil {
		return nil, err
	}
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
	if opts.Compat != nil {
		b.log, b.logPath = opts.Compat.Log, opts.Compat.LogName
	} else {
		b.logPath = filepath.Join(opts.Out, def.Name+".build.log")
		log, err := createLog(b.logPath)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, log.Close()) }()
		b.log = log
	}
	t, disk, err := b.makeTree(ctx)
	if err != nil {
		return nil, err
	}
	if b.disk = disk; disk != nil {
		defer disk.Close()
	}
	return b.writeOutputs(ctx, t, b.epoch)
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

// resolve decides elements, packages and the disk before anything is made.
func (b *build) resolve() error {
	var err error
	if b.elements, err = b.opts.Elements.Resolve(b.def.Elements); err != nil {
		return err
	}
	if err := b.checkFiles(); err != nil {
		return err
	}
	if b.opts.Compat == nil {
		asked, err := b.askedPackages()
		if err != nil {
			return err
		}
		b.packages = slices.Compact(slices.Sorted(slices.Values(append(asked, b.def.Packages...))))
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

// makeTree runs all phases and returns the finished tree, and the disk where
// the phases made one.
func (b *build) makeTree(ctx context.Context) (*tree.Tree, *os.File, error) {
	if err := b.prepare(); err != nil {
		return nil, nil, err
	}
	root, err := b.baseRoot(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := b.lateEnvironment(); err != nil {
		return nil, nil, err
	}
	if b.lent, err = lendResolvConf(root, "/etc/resolv.conf"); err != nil {
		return nil, nil, err
	}
	if err := b.runPhases(ctx, root, treePhases); err != nil {
		return nil, nil, err
	}
	// What a hook mounted on the tree is no part of the image.
	if b.needsMachine() {
		if err := rootfs.UnmountBelow(root); err != nil {
			return nil, nil, err
		}
		return b.diskInMachine(ctx, root)
	}
	if b.layout != nil {
		if err := b.describeDisk(root); err != nil {
			return nil, nil, err
		}
	}
	if err := b.runPhases(ctx, root, diskPhases); err != nil {
		return nil, nil, err
	}
	if err := rootfs.UnmountBelow(root); err != nil {
		return nil, nil, err
	}
	if b.opts.Compat != nil {
		if err := b.stageFor(diskPhases[0], root).finish(nil); err != nil {
			return nil, nil, err
		}
		t, err := tree.FromDir(root)
		return t, nil, err
	}
	if b.lent {
		if err := restoreResolvConf(root); err != nil {
			return nil, nil, err
		}
	}
	t, err := tree.FromDir(root)
	if err != nil {
		return nil, nil, err
	}
	return t, nil, normalise(t, b.epoch)
}

// prepare fills the scratch directory: the hooks, the library that they
// source, and what they are told of the disk.
func (b *build) prepare() error {
	b.hooks = filepath.Join(b.work.dir, "hooks")
	if err := element.MergeHooks(b.elements, b.hooks); err != nil {
		return err
	}
	if err := hooklib.Write(filepath.Join(b.work.dir, "lib")); err != nil {
		return err
	}
	host := b.paths("")
	if err := os.WriteFile(host["GOLDSMITH_PACKAGES"], []byte(strings.Join(b.packages, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	for _, dir := range []string{"TMP_IMAGE_DIR", "DIB_IMAGE_CACHE", "DIB_LOCKFILES"} {
		if err := os.MkdirAll(host[dir], 0o755); err != nil {
			return err
		}
	}
	if b.layout == nil {
		return nil
	}
	return b.writeLayout()
}

func (b *build) writeLayout() error {
	host := b.paths("")
	return b.layout.write(filepath.Dir(host["DIB_BLOCK_DEVICE_PARAMS_YAML"]), host["TMP_IMAGE_DIR"], b.work.dir)
}

// lateEnvironment adds the snippet that hooks after root.d source: it names
// the default install type for those that run without our environment. An
// image without any snippet needs no bash, and gets none for it.
func (b *build) lateEnvironment() error {
	dir := filepath.Join(b.hooks, "environment.d")
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
func (b *build) runPhases(ctx context.Context, root string, list []phase) error {
	for _, p := range list {
		s := b.stageFor(p, root)
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
