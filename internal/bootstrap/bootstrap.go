// Package bootstrap makes a Debian system's file tree from a plan of packages
// (package apt): what mmdebstrap and debootstrap do, with less work.
//
// Each package is unpacked once, by this program, straight to its place; dpkg
// inside the tree only configures. dpkg cannot be asked to do so little: it
// would unpack the essential packages a second time, after somebody else had
// done it for it to run at all. Everything that dpkg knows of an unpacked
// package is written down as it would have done (dpkg's database, deb(5),
// deb-triggers(5)), and the packages' own scripts run as Debian Policy,
// chapter 6, says, with these differences, all of which debootstrap has too:
// an essential package's preinst runs when the package is unpacked, since
// before nothing could run, and no service is started.
//
// An initramfs is not generated, unless asked for: see Options. The packages
// that would have it generated are configured all the same.
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"goldsmith/internal/apt"
	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
)

// Options of Make. The zero value is ready to use.
type Options struct {
	// Filters say what is not unpacked; the last that matches decides.
	Filters []Filter
	// Initramfs has the image's own tools generate an initramfs for each
	// kernel, once. Without it there is none: an image of goldsmith has
	// another.
	Initramfs bool
	// Log receives what dpkg and the packages' scripts print; nil means it is
	// only kept for the error.
	Log io.Writer
	// Env is more for dpkg and the packages' scripts, as NAME=VALUE, such as
	// SOURCE_DATE_EPOCH: without it, shadow(5) has the day of today.
	Env []string
	// Show is a directory that they see as rootfs.HooksDir; empty means none.
	Show  string
	Meter *Meter // measures the stages; nil means nobody wants to know
}

// Make makes the tree in the directory root, which must be empty or not there.
// The plan's packages must be in the cache: see apt.Plan.Fetch. It needs root,
// and mounts of its own (package rootfs). When it fails, the tree is not whole.
func Make(ctx context.Context, plan *apt.Plan, cache, root string, o Options) error {
	root, err := filepath.Abs(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		return errors.Join(err, command.BadInput(fmt.Errorf("%s: is not empty", root), "name a new directory"))
	}
	if err := os.Chmod(root, 0o755); err != nil {
		return err
	}
	if o.Meter == nil {
		o.Meter = &Meter{}
	}
	err = makeTree(ctx, plan, cache, root, o, min(runtime.NumCPU(), 4))
	if errors.Is(err, errOrder) {
		// One after the other, in the plan's order.
		if err := empty(root); err != nil {
			return err
		}
		err = makeTree(ctx, plan, cache, root, o, 1)
	}
	return err
}

func makeTree(ctx context.Context, plan *apt.Plan, cache, root string, o Options, workers int) error {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	defer t.close()
	s := &system{
		plan: plan, options: o, tree: t, root: root, workers: workers, owners: newOwners(),
		chroot: rootfs.Chroot{Root: root, Hooks: o.Show},
	}
	defer s.closePackages()
	for _, step := range []func(context.Context) error{
		func(context.Context) error { return s.open(cache) }, s.prepare, s.install, s.finish,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// empty takes away what is in a tree.
func empty(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		err = errors.Join(err, root.RemoveAll(e.Name()))
	}
	return err
}

// system is one that is being made.
type system struct {
	plan     *apt.Plan
	options  Options
	tree     *tree
	root     string
	workers  int // packages that are unpacked at a time
	chroot   rootfs.Chroot
	packages []*pkg // sorted by name, as in the plan
	owners   *owners
}

func (s *system) clock(stage string) { s.options.Meter.Begin(stage) }

// prepare makes what packages find there already. Since Debian 12 and Ubuntu
// 23.04 the programs and libraries of / are those of /usr; the releases before
// support it (the package usrmerge).
func (s *system) prepare(context.Context) error {
	links := []string{"bin", "lib", "sbin"}
	switch s.plan.Arch {
	case "amd64", "loong64", "ppc64", "ppc64el", "sparc64":
		links = append(links, "lib64")
	}
	for _, name := range links {
		if err := s.tree.mkdir("/usr/" + name); err != nil {
			return err
		}
		if err := os.Symlink("usr/"+name, filepath.Join(s.root, name)); err != nil {
			return err
		}
	}
	return s.startDatabase()
}
