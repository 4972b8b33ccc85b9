package imagebuild

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/element"
	"goldsmith/internal/pkginstall"
)

// scriptEpoch is SOURCE_DATE_EPOCH for hooks and maintainer scripts where the
// caller gives none: any fixed time does, since it only replaces the clock
// (shadow(5) notes the day of a password's last change).
const scriptEpoch = "1735689600" // 2025-01-01

// What root.d hooks see as the image's name and version, as if nobody had
// given one: images of all names and versions share a base tree. The words
// are diskimage-builder's default and our own; its elements' environment.d
// needs the variables to be there.
const (
	baseImageName    = "image"
	baseImageVersion = "0"
)

// searchPath is PATH in an image: the usual directories.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// bySudo is what hooks in an image of diskimage-builder's commands have where
// the caller has none of it, as in a CI job: the original goes in by sudo(8).
var bySudo = map[string]string{"SHELL": "/bin/bash", "TERM": "unknown"}

// proxies are passed on from the caller's environment.
var proxies = []string{"http_proxy", "https_proxy", "no_proxy"}

// aptSources is where the build host's package sources are.
const aptSources = "/etc/apt"

// defaults are variables that a definition, or the caller of a
// diskimage-builder command, may set otherwise.
var defaults = map[string]string{
	"DIB_CHECKSUM":    "0",
	"DIB_DEBUG_TRACE": "0",
	"DIB_MIN_TMPFS":   "2",
	"DIB_NO_TMPFS":    "0",
	"DIB_OFFLINE":     "",
	"FS_TYPE":         "ext4",
}

// defaultLine is how environment.d gives a variable its default value:
// export NAME=${NAME:-value}, at the beginning of a line, the value a word
// without quoting.
var defaultLine = regexp.MustCompile(`(?m)^export ([A-Za-z_]\w*)="?\$\{([A-Za-z_]\w*):-([\w./:+-]*)\}"?\s*(?:#.*)?$`)

// addDefaults adds to env the defaults that the elements' environment.d give
// in the form of defaultLine, where env has no value. These files are programs,
// and before there is a tree nothing of them runs: what they say in another way
// is not known.
func addDefaults(env pkginstall.Environment, elements []*element.Element) error {
	var files []string
	for _, e := range elements {
		own, err := filepath.Glob(filepath.Join(e.Dir, "environment.d", "*"))
		if err != nil {
			return err
		}
		files = append(files, own...)
	}
	slices.SortStableFunc(files, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		for _, m := range defaultLine.FindAllStringSubmatch(string(text), -1) {
			if m[1] == m[2] && env[m[1]] == "" {
				env[m[1]] = m[3]
			}
		}
	}
	return nil
}

// stageFor is what the hooks of a phase run with. docs/elements.md lists the
// environment.
func (b *build) stageFor(p phase, root string) *stage {
	s := &stage{
		Hooks: b.hooks(), Root: root, Env: b.settings(p), Host: b.paths(root), LogName: b.logPath, Lent: b.lent,
		Work: b.workDir(), Elements: map[string]string{}, Timeout: b.opts.HookTimeout, log: b.log,
		Inside: map[string]string{"PATH": searchPath, "HOME": "/root", "TMPDIR": "", "VIRTUAL_ENV": ""},
	}
	for _, e := range b.elements {
		s.Elements[e.Name] = e.Dir
	}
	if b.opts.Compat != nil {
		for k, v := range bySudo {
			if s.Env[k] == "" {
				s.Inside[k] = v
			}
		}
	}
	s.Break = readBreaks(s.Env)
	if b.opts.Compat == nil {
		for _, k := range proxies {
			if v, ok := os.LookupEnv(k); ok && s.Env[k] == "" {
				s.Env[k] = v
			}
		}
	}
	// Of the paths, a hook in the tree sees what diskimage-builder shows it.
	for k, v := range s.Host {
		if k != "TARGET_ROOT" && !strings.HasPrefix(k, "GOLDSMITH_") {
			s.Inside[k] = v
		}
	}
	b.setFaketime(s)
	return s
}

// settings are the part of the environment that says what is built, not where.
func (b *build) settings(p phase) map[string]string {
	env := maps.Clone(defaults)
	if b.opts.Compat != nil {
		maps.Copy(env, b.opts.Compat.Environ)
	}
	maps.Copy(env, b.def.Environment)
	if b.opts.Offline {
		env["DIB_OFFLINE"] = "1"
	}
	maps.Copy(env, map[string]string{
		"LC_ALL":            "C",
		"SOURCE_DATE_EPOCH": scriptEpoch,
		"ARCH":              b.def.Arch,
		"IMAGE_NAME":        b.def.Name,
		"IMAGE_VERSION":     b.def.Version,
		"IMAGE_ELEMENT":     strings.Join(elementNames(b.elements), " "),
		"DIB_RELEASE":       b.def.Release,
		"BASH_FUNC_die%%":   dieFunction,
		"DIB_ROOT_LABEL":    "root",
		"DIB_ROOT_FSTYPE":   "erofs",
		"DIB_BOOT_LABEL":    "",
		"DIB_MOUNTPOINTS":   "/",
		"DIB_ARGS":          strings.Join(b.def.Elements, " "),
		"DIB_ENV":           declared(b.def.Environment),
	})
	epoch, ok := os.LookupEnv("SOURCE_DATE_EPOCH")
	if c := b.opts.Compat; c != nil {
		epoch, ok = c.Environ["SOURCE_DATE_EPOCH"]
	}
	if ok {
		env["SOURCE_DATE_EPOCH"] = epoch
	}
	if l := b.layout; l != nil {
		if l.sized {
			env["DIB_IMAGE_SIZE"] = fmt.Sprint(l.params.Size / 1024) // KiB, as the original leaves it
		}
		env["DIB_ROOT_LABEL"], env["DIB_ROOT_FSTYPE"] = l.plan.RootLabel(), l.plan.RootFSType()
		env["DIB_BOOT_LABEL"] = l.plan.BootLabel()
		env["DIB_MOUNTPOINTS"] = strings.Join(l.plan.MountPoints(), "|")
	}
	debianSecurity(env, b.elements, aptSources)
	if c := b.opts.Compat; c != nil {
		env["IMAGE_NAME"] = c.ImageName
		if v := c.Environ["IMAGE_VERSION"]; v != "" {
			env["IMAGE_VERSION"] = v
		}
		env["PATH"] = WithSystemDirs(c.Environ["PATH"])
		env["DIB_ARGS"] = strings.Join(c.Args, " ")
		caller := maps.Clone(c.Caller)
		if caller == nil {
			caller = map[string]string{}
		}
		caller["DIB_ARGS"] = env["DIB_ARGS"] // which the original sets before it looks
		env["DIB_ENV"] = declared(caller)
		env["OUT_IMAGE_PATH"] = ""
		if env["IMAGE_TYPE"] == "" {
			env["IMAGE_TYPE"] = "qcow2"
		}
		if b.def.Release == "" {
			delete(env, "DIB_RELEASE") // elements have defaults of their own
		}
		return env
	}
	env["PATH"], env["HOME"], env["DEBIAN_FRONTEND"] = searchPath, "/root", "noninteractive"
	if p == rootPhase {
		env["IMAGE_NAME"], env["IMAGE_VERSION"] = baseImageName, baseImageVersion
	}
	return env
}

// paths are the part of the environment that says where things lie on the
// host.
func (b *build) paths(root string) map[string]string {
	env := map[string]string{
		"TARGET_ROOT":                         root,
		"TMP_MOUNT_PATH":                      root,
		"TMP_BUILD_DIR":                       b.dir(),
		"TMP_IMAGE_DIR":                       filepath.Join(b.dir(), imageName),
		"TMP_HOOKS_PATH":                      b.hooks(),
		"GOLDSMITH_BIN":                       b.opts.Bin,
		"GOLDSMITH_MIRROR":                    strings.Join(b.def.Mirror, "\n"),
		"GOLDSMITH_LOCK":                      "",
		"GOLDSMITH_PINS":                      filepath.Join(b.dir(), fetchedName),
		"GOLDSMITH_PACKAGES":                  filepath.Join(b.dir(), packagesName),
		"_LIB":                                filepath.Join(b.dir(), libName),
		"DIB_BLOCK_DEVICE_PARAMS_YAML":        filepath.Join(b.dir(), blockDeviceDir, "params.yaml"),
		"DIB_PYTHON_EXEC":                     python(),
		"ELEMENTS_PATH":                       strings.Join(b.opts.Elements, ":"),
		"IMAGE_ELEMENT_YAML":                  element.YAML(b.elements),
		"BASH_FUNC_get_image_element_array%%": element.ArrayFunction(b.elements),
	}
	if b.pins != nil {
		env["GOLDSMITH_LOCK"] = filepath.Join(b.dir(), pinnedName)
	}
	if b.opts.Compat == nil {
		// The element manifests would write below the working directory.
		env["DIB_MANIFEST_SAVE_DIR"] = filepath.Join(b.dir(), manifestsName) + "/"
	}
	if b.cache != nil {
		env["DIB_IMAGE_CACHE"] = filepath.Join(b.cache.dir, downloadsName)
		env["DIB_LOCKFILES"] = filepath.Join(b.cache.dir, locksName)
	}
	if c := b.opts.Compat; c != nil {
		env["DIB_IMAGE_CACHE"], env["DIB_LOCKFILES"] = c.ImageCache, c.LockFiles
		if given := c.Environ["DIB_PYTHON_EXEC"]; given != "" {
			env["DIB_PYTHON_EXEC"] = given
		}
	}
	return env
}

// dieFunction is the body of the shell function that hooks end with.
const dieFunction = `() { local status=$?; set +o xtrace; echo "$*"; [ "$status" -ne 0 ] || status=1; exit "$status"; }`

// declared writes the DIB_ variables as bash's "declare -x" prints them.
func declared(env map[string]string) string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if strings.HasPrefix(k, "DIB_") {
			v := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "`", "\\`").Replace(env[k])
			lines = append(lines, fmt.Sprintf(`declare -x %s="%s"`, k, v))
		}
	}
	return strings.Join(lines, "\n")
}

// WithSystemDirs adds the directories of system programs to a search path
// that lacks them, as that of an ordinary user does.
func WithSystemDirs(path string) string {
	if path == "" {
		return searchPath
	}
	for _, dir := range []string{"/sbin", "/usr/sbin", "/usr/local/sbin"} {
		if !slices.Contains(filepath.SplitList(path), dir) {
			path += ":" + dir
		}
	}
	return path
}

// python is the interpreter that hooks find in DIB_PYTHON_EXEC: the
// distribution's, which has what Debian packages for it, before any other.
func python() string {
	for _, name := range []string{"/usr/bin/python3", "python3"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	return "python3"
}

// reserved tells whether the builder itself sets the variable, so that a
// definition must not.
func reserved(name string) bool {
	b := &build{def: &Definition{}, work: &work{}, cache: &cache{}}
	own := b.settings(rootPhase)
	maps.Copy(own, b.paths(""))
	_, ok := own[name]
	_, free := defaults[name]
	return ok && !free || name == blockDevice || name == blockDevices
}
