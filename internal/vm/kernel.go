package vm

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/initramfs"
	"goldsmith/internal/tree"
)

// Kernel is a kernel that a machine can run.
type Kernel struct {
	Image   string // file
	Version string
	modules []initramfs.LoadedModule
}

// needed are the modules that every machine loads: its bus, disks, network,
// randomness and the host's files.
var needed = []string{"virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "9pnet_virtio", "9p"}

// FindKernel looks for a kernel below each root, the first that will do: in
// /boot or /lib/modules/VERSION, with the modules of a machine and those that
// the caller wants. Newer versions, by name, are tried first. Without one the
// error says what each lacks.
func FindKernel(roots []string, modules []string) (*Kernel, error) {
	var lacks []string
	for _, root := range roots {
		for _, k := range kernels(root) {
			missing, err := k.load(root, modules)
			if err != nil {
				lacks = append(lacks, fmt.Sprintf("%s: %v", k.Image, err))
				continue
			}
			if len(missing) > 0 {
				lacks = append(lacks, fmt.Sprintf("%s lacks %s", k.Image, strings.Join(missing, ", ")))
				continue
			}
			return k, nil
		}
	}
	why := "neither the image nor this host has one"
	if len(lacks) > 0 {
		why = strings.Join(lacks, "; ")
	}
	return nil, command.Missing(fmt.Errorf("no kernel for the virtual machine that makes the disk: %s", why),
		"install a distribution's kernel on this host, such as Debian's linux-image-amd64 (its cloud kernels lack 9p)")
}

// kernels lists the kernels below a root, the newest version first. A link
// that leads out of it is not followed: in an image it could lead to a file of
// the host.
func kernels(root string) []*Kernel {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer r.Close()
	var out []*Kernel
	seen := map[string]bool{}
	for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz", "lib/modules/*/vmlinuz"} {
		files, _ := fs.Glob(r.FS(), pattern)
		for _, f := range files {
			version, ok := strings.CutPrefix(filepath.Base(f), "vmlinuz-")
			if !ok {
				version = filepath.Base(filepath.Dir(f))
			}
			if fi, err := r.Lstat(f); err != nil || !fi.Mode().IsRegular() || seen[version] {
				continue
			}
			seen[version] = true
			out = append(out, &Kernel{Image: filepath.Join(root, f), Version: version})
		}
	}
	slices.SortFunc(out, func(a, b *Kernel) int { return compareVersions(b.Version, a.Version) })
	return out
}

// compareVersions orders versions by their numbers: 6.1.0-9 before 6.1.0-10.
func compareVersions(a, b string) int {
	as, bs := versionParts.FindAllString(a, -1), versionParts.FindAllString(b, -1)
	for i := range min(len(as), len(bs)) {
		x, errX := strconv.ParseUint(as[i], 10, 64)
		y, errY := strconv.ParseUint(bs[i], 10, 64)
		c := strings.Compare(as[i], bs[i])
		if errX == nil && errY == nil {
			c = cmp.Compare(x, y)
		}
		if c != 0 {
			return c
		}
	}
	return len(as) - len(bs)
}

var versionParts = regexp.MustCompile(`[0-9]+|[^0-9]+`)

// load reads the modules, in the order in which they are to be loaded.
func (k *Kernel) load(root string, more []string) (missing []string, err error) {
	t, err := moduleTree(root, k.Version)
	if err != nil {
		return nil, err
	}
	k.modules, missing, err = initramfs.Modules(t, k.Version, slices.Concat(needed, more))
	return missing, err
}

// moduleTree is the part of a root that holds a kernel's modules. Nothing in
// it is reached through a link but lib itself, which distributions make one.
func moduleTree(root, version string) (*tree.Tree, error) {
	r, err := os.OpenRoot(root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	for _, dir := range []string{"usr/lib/modules", "lib/modules"} {
		dir = filepath.Join(dir, version)
		if _, err := r.Stat(filepath.Join(dir, "modules.dep")); err != nil {
			continue
		}
		t := tree.New()
		err := filepath.WalkDir(filepath.Join(root, dir), func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			rel, err := filepath.Rel(root, p)
			if err == nil {
				t.AddParents(rel)
				_, err = t.AddFrom(rel, 0o644, p)
			}
			return err
		})
		return t, err
	}
	return nil, errors.New("has no modules")
}
