// Package dibargs reads the command lines of diskimage-builder's programs:
// disk-image-create, ramdisk-image-create, element-info and diskimage-builder
// with its YAML files. It only reads them; what it returns says what the
// original would have built.
//
// Flags that the originals document and refuse, because a table of theirs lacks
// them, are taken.
package dibargs

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// The programs' names.
const (
	DiskImageCreate    = "disk-image-create"
	RamdiskImageCreate = "ramdisk-image-create"
	DiskimageBuilder   = "diskimage-builder"
	ElementInfo        = "element-info"
)

// Image is one image to build.
type Image struct {
	Arch         string   // in Debian's words
	Name         string   // of the outputs without ending, directories included
	Types        []string // as -t names them
	Elements     []string // as given; see All
	Packages     []string // to install after install.d
	Uncompressed bool
	Clear        bool // forget the caller's environment
	SkipBase     bool
	Ramdisk      bool // called as ramdisk-image-create
	LogFile      string
	Quiet        bool // print nothing of the build
	NoTimestamp  bool
	Environ      map[string]string // for hooks: the caller's, and what flags export
	Caller       map[string]string // the caller's environment alone
	ImageCache   string
	LockFiles    string
	InstallType  string
	RootLabel    string
	MkfsOptions  string
	MaxResize    string // blocks
	QemuOptions  string
	DockerTarget string
	Args         []string // as given
}

// Errors by which a command line asks for something else than an image.
var (
	ErrHelp    = errors.New("help")
	ErrVersion = errors.New("version")
)

// ErrNoElement says that the command line names no element.
var ErrNoElement = errors.New("at least one distribution root element must be specified")

// flags are those of disk-image-create, as its script gives them to getopt(1).
var flags = spec{
	short: "a:ho:t:xucnp:",
	long: []string{
		"checksum", "no-tmpfs", "offline", "help", "version", "min-tmpfs:", "image-size:", "image-cache:",
		"max-online-resize:", "mkfs-options:", "qemu-img-options:", "ramdisk-element:", "root-label:",
		"install-type:", "docker-target:", "logfile:",
	},
	more: []string{"image-extra-size:", "mkfs-journal-size:"},
}

// exported are the flags whose value becomes a variable of that name.
var exported = map[string]string{
	"image-size": "DIB_IMAGE_SIZE", "image-cache": "DIB_IMAGE_CACHE", "min-tmpfs": "DIB_MIN_TMPFS",
	"max-online-resize": "MAX_ONLINE_RESIZE", "docker-target": "DOCKER_TARGET", "logfile": "LOGFILE",
	"a": "ARCH", "o": "IMAGE_NAME", "mkfs-journal-size": "DIB_JOURNAL_SIZE",
}

// switched are the flags that set a variable to 1.
var switched = map[string]string{"checksum": "DIB_CHECKSUM", "no-tmpfs": "DIB_NO_TMPFS", "offline": "DIB_OFFLINE"}

// ParseImage reads the command line of disk-image-create or
// ramdisk-image-create, whose words the program is. environ is the caller's
// environment; arch is the machine's architecture, home the caller's home
// directory. Errors other than ErrHelp, ErrVersion and ErrNoElement are
// getopt's.
func ParseImage(program string, args, environ []string, arch, home string) (*Image, error) {
	opts, words, err := flags.parse(args)
	if err != nil {
		return nil, err
	}
	img := &Image{
		Types: []string{"qcow2"}, Elements: words, Ramdisk: program == RamdiskImageCreate,
		Environ: variables(environ), Caller: variables(environ), Args: args,
	}
	env := img.Environ
	trace, _ := strconv.Atoi(env["DIB_DEBUG_TRACE"])
	img.SkipBase = env["SKIP_BASE"] == "1"
	for _, name := range []string{"DOCKER_TARGET", "LOGFILE"} { // only flags set them
		delete(env, name)
	}
	for _, o := range opts {
		if name := exported[o.name]; name != "" {
			env[name] = o.value
		}
		if name := switched[o.name]; name != "" {
			env[name] = "1"
		}
		switch o.name {
		case "h", "help":
			return nil, ErrHelp
		case "version":
			return nil, ErrVersion
		case "t":
			img.Types = strings.Split(strings.TrimSuffix(o.value, ","), ",") // as bash's read does
		case "x":
			trace++
		case "u":
			img.Uncompressed = true
		case "c":
			img.Clear = true
		case "n":
			img.SkipBase, env["SKIP_BASE"] = true, "1"
		case "p":
			img.Packages = append(img.Packages, strings.FieldsFunc(o.value, isSeparator)...)
		case "image-extra-size":
			// GiB by the help, MiB in the variable.
			gib, err := strconv.ParseFloat(o.value, 64)
			if err != nil || !(gib >= 0 && gib <= 1<<20) {
				return nil, fmt.Errorf("--image-extra-size %q: expected GiB, such as 1 or 0.5", o.value)
			}
			env["DIB_IMAGE_EXTRA_SIZE"] = strconv.FormatFloat(gib*1024, 'f', -1, 64)
		case "mkfs-options":
			img.MkfsOptions = o.value
		case "qemu-img-options":
			img.QemuOptions = o.value
		case "root-label":
			img.RootLabel = o.value
		case "ramdisk-element":
			env["RAMDISK_ELEMENT"] = o.value
		case "install-type":
			env["DIB_DEFAULT_INSTALLTYPE"] = o.value
		}
	}
	if img.Clear {
		keepOnly(env, opts)
		clear(img.Caller)
	}
	img.fill(arch, home, trace)
	if len(words) == 0 {
		return nil, ErrNoElement
	}
	return img, nil
}

// isSeparator says what stands between packages: commas, and blanks as in a
// shell's word.
func isSeparator(r rune) bool { return strings.ContainsRune(", \t\n", r) }

// keepOnly forgets all of the caller's environment that no flag set, but for
// what programs cannot do without.
func keepOnly(env map[string]string, opts []option) {
	keep := map[string]bool{"HOME": true, "PATH": true, "SKIP_BASE": true, "RAMDISK_ELEMENT": true, "GOLDSMITH_HOOK_TIMEOUT": true}
	for _, o := range opts {
		keep[exported[o.name]], keep[switched[o.name]] = true, true
		switch o.name {
		case "install-type":
			keep["DIB_DEFAULT_INSTALLTYPE"] = true
		case "image-extra-size":
			keep["DIB_IMAGE_EXTRA_SIZE"] = true
		}
	}
	maps.DeleteFunc(env, func(k, _ string) bool { return !keep[k] })
}

// fill sets what follows from the flags and the environment.
func (img *Image) fill(arch, home string, trace int) {
	env := img.Environ
	def := func(name, value string) string {
		if env[name] == "" {
			env[name] = value
		}
		return env[name]
	}
	env["DIB_DEBUG_TRACE"] = strconv.Itoa(trace)
	img.Arch = def("ARCH", arch)
	img.Name = def("IMAGE_NAME", "image")
	if len(img.Types) == 1 {
		img.Name = strings.TrimSuffix(img.Name, "."+img.Types[0])
		env["IMAGE_NAME"] = img.Name
	}
	if img.Ramdisk {
		def("RAMDISK_ELEMENT", "ramdisk")
	}
	img.ImageCache = def("DIB_IMAGE_CACHE", filepath.Join(home, ".cache/image-create"))
	img.LockFiles = def("DIB_LOCKFILES", filepath.Join(home, ".cache/dib/lockfiles"))
	img.InstallType = env["DIB_DEFAULT_INSTALLTYPE"]
	img.MaxResize, img.DockerTarget = env["MAX_ONLINE_RESIZE"], env["DOCKER_TARGET"]
	img.LogFile = env["LOGFILE"]
	img.Quiet = env["DIB_QUIET"] == "1" || img.LogFile != "" && env["DIB_QUIET"] == ""
	img.NoTimestamp = env["DIB_NO_TIMESTAMP"] == "1"
}

// All is the list that is resolved: base first unless it is skipped, in front
// of it the ramdisk's element, and at the end the block device that the
// element vm needs where none is named. Only the literal words count for that.
func (img *Image) All() []string {
	all := slices.Clone(img.Elements)
	vm := slices.Contains(all, "vm")
	device := slices.ContainsFunc(all, func(e string) bool { return strings.HasPrefix(e, "block-device-") })
	if vm && !device {
		if img.Arch == "arm64" || img.Arch == "aarch64" {
			all = append(all, "block-device-efi")
		} else {
			all = append(all, "block-device-mbr")
		}
	}
	if !img.SkipBase {
		all = append([]string{"base"}, all...)
	}
	if img.Ramdisk {
		all = append([]string{img.Environ["RAMDISK_ELEMENT"]}, all...)
	}
	return all
}

// variables makes a map of NAME=value words. Exported shell functions are
// kept: hooks may use them.
func variables(words []string) map[string]string {
	env := map[string]string{}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			env[name] = value
		}
	}
	return env
}

// Usage is the help of disk-image-create or ramdisk-image-create.
func Usage(program string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `Usage: %[1]s [OPTION]... [ELEMENT]...

Builds an image from elements. This is imgbuild, which takes the options of
diskimage-builder's %[1]s.

Options:
  -a ARCH                    architecture, in Debian's words (default: the machine's)
  -o NAME                    name of the output files, without ending (default: image)
  -t TYPE[,TYPE...]          qcow2 (default), raw, vhd, tar, tgz, squashfs, docker, aci,
                             or another type that qemu-img convert knows, such as vmdk
  -u                         do not compress qcow2
  -x                         trace hooks; twice: more
  -c                         start with an empty environment
`, program)
	if program == DiskImageCreate {
		b.WriteString(`  -n                         do not add the element base
  -p PACKAGE[,PACKAGE...]    install these after install.d; may be repeated
`)
	}
	b.WriteString(`  --checksum                 write NAME.TYPE.md5 and NAME.TYPE.sha256
  --docker-target REPO:TAG   name that the type docker gets
  --image-cache DIRECTORY    where downloads are kept (default: ~/.cache/image-create)
  --image-extra-size GIB     this much more than the tree (DIB_IMAGE_EXTRA_SIZE is in MiB)
  --image-size GIB           size of the disk (default: what the tree needs)
  --install-type TYPE        default install type of elements: source or package
  --logfile FILE             append the output to FILE, and print it only with DIB_QUIET=0
  --max-online-resize N      blocks that the root file system can grow to
  --min-tmpfs GIB            taken, and without effect: builds lie in imgbuild's cache directory
  --mkfs-journal-size MIB    size of an ext4 root's journal (default: 64)
  --mkfs-options WORDS       more options for mkfs of the root file system
  --no-tmpfs                 taken, and without effect
  --offline                  do not refresh downloads
  --qemu-img-options K=V,... options for qemu-img convert
  --ramdisk-element ELEMENT  main element of a ramdisk (default: ramdisk)
  --root-label LABEL         label of the root file system (default: cloudimg-rootfs)
  -h, --help                 print this help
  --version                  print the version

Environment: ELEMENTS_PATH (colon-separated directories of elements), DIB_NO_TIMESTAMP,
DIB_QUIET, DIB_JOURNAL_SIZE (MiB), DIB_BLOCK_DEVICE_CONFIG, break, and what elements read.

`)
	fmt.Fprintf(&b, "Example:\n  DIB_RELEASE=bookworm %s -o %s\n", program, map[string]string{
		DiskImageCreate:    "debian -t qcow2 vm debian-minimal",
		RamdiskImageCreate: "deploy ramdisk debian-minimal",
	}[program])
	return b.String()
}
