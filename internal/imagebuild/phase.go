package imagebuild

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
	"goldsmith/internal/rootfs"
)

// phase is one directory of hooks and where it runs.
type phase struct {
	name   string
	inside bool // in the image's tree rather than on the host
}

// rootPhase makes the base tree.
var rootPhase = phase{name: "root.d"}

// phases in order, after root.d has made the base tree. They are
// diskimage-builder's; those that need a block device are not there.
var phases = []phase{
	{"extra-data.d", false},
	{"pre-install.d", true},
	{"install.d", true},
	{"post-install.d", true},
	{"post-root.d", false},
	{"finalise.d", true},
	{"cleanup.d", false},
}

// runPhase runs the hooks of a phase on the tree at root. A phase without
// hooks does nothing.
func (b *build) runPhase(ctx context.Context, p phase, root string) error {
	dir := filepath.Join(b.hooks, p.name)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	r := hook.Runner{Dir: dir, Env: b.environment(p, root), Log: b.log}
	if p.inside {
		c := rootfs.Chroot{Root: root, Hooks: b.hooks}
		r.InDir = rootfs.HooksDir + "/" + p.name
		r.Exec = c.Exec
	}
	fmt.Fprintf(b.log, "=== %s\n", p.name)
	return b.explain(p, r.Run(ctx))
}

// explain turns a hook's failure into a message that names phase, hook,
// element, status and last lines.
func (b *build) explain(p phase, err error) error {
	he, ok := errors.AsType[*hook.Error](err)
	if !ok {
		return err
	}
	name := filepath.Base(he.Path)
	rel := filepath.Join(p.name, name)
	if filepath.Base(filepath.Dir(he.Path)) == "environment.d" {
		rel = filepath.Join("environment.d", name)
	}
	owner := "unknown"
	for _, e := range b.elements {
		if _, err := os.Lstat(filepath.Join(e.Dir, rel)); err == nil {
			owner = e.Name
		}
	}
	var m bytes.Buffer
	fmt.Fprintf(&m, "element %s: %s: %s", owner, rel, he.Reason())
	for _, l := range he.Tail {
		fmt.Fprintf(&m, "\n    %s", l)
	}
	return command.Hint(errors.New(m.String()), "the whole output is in "+b.logPath)
}

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

// proxies are passed on from the caller's environment.
var proxies = []string{"http_proxy", "https_proxy", "no_proxy"}

// environment is what every hook of a phase sees. It holds nothing of the
// caller's own environment but proxies and SOURCE_DATE_EPOCH; docs/elements.md
// lists it.
func (b *build) environment(p phase, root string) []string {
	env := b.settings(p)
	for _, k := range proxies {
		if v, ok := os.LookupEnv(k); ok && env[k] == "" {
			env[k] = v
		}
	}
	if !p.inside {
		maps.Copy(env, b.paths(root))
	}
	return list(env)
}

// settings are the part of the environment that says what is built, not where.
func (b *build) settings(p phase) map[string]string {
	env := map[string]string{"DIB_OFFLINE": ""} // a definition may say otherwise
	maps.Copy(env, b.def.Environment)
	maps.Copy(env, map[string]string{
		"PATH":              "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":              "/root",
		"LC_ALL":            "C",
		"DEBIAN_FRONTEND":   "noninteractive",
		"SOURCE_DATE_EPOCH": scriptEpoch,
		"ARCH":              b.def.Arch,
		"IMAGE_NAME":        b.def.Name,
		"IMAGE_VERSION":     b.def.Version,
		"IMAGE_ELEMENT":     strings.Join(elementNames(b.elements), " "),
		"DIB_RELEASE":       b.def.Release,
	})
	if v, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok {
		env["SOURCE_DATE_EPOCH"] = v
	}
	if p == rootPhase {
		env["IMAGE_NAME"], env["IMAGE_VERSION"] = baseImageName, baseImageVersion
	}
	return env
}

// paths are the part of the environment that says where things lie on the
// host.
func (b *build) paths(root string) map[string]string {
	return map[string]string{
		"TARGET_ROOT":        root,
		"TMP_MOUNT_PATH":     root,
		"TMP_BUILD_DIR":      b.work.dir,
		"TMP_HOOKS_PATH":     b.hooks,
		"GOLDSMITH_BIN":      b.opts.Bin,
		"GOLDSMITH_MIRROR":   strings.Join(b.def.Mirror, "\n"),
		"GOLDSMITH_PACKAGES": filepath.Join(b.work.dir, "packages"),
	}
}

// reserved tells whether the builder itself sets the variable, so that a
// definition must not.
func reserved(name string) bool {
	b := &build{def: &Definition{}, work: &work{}}
	own := b.settings(rootPhase)
	maps.Copy(own, b.paths(""))
	_, ok := own[name]
	return ok && name != "DIB_OFFLINE"
}

// list writes an environment as NAME=VALUE, sorted.
func list(env map[string]string) []string {
	out := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, k+"="+env[k])
	}
	return out
}
