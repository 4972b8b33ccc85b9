// Imgtools is what diskimage-builder's elements call inside an image while it
// is built, in one static program: pkg-map, svc-map, install-packages,
// package-installs-v2, cache-url and dib-run-parts; and what our own elements
// call beside an image. Called by one of these names, through
// a link, or with the name as its first argument, it takes that tool's
// arguments and ends with its exit statuses. An image needs no Python for it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"goldsmith/internal/command"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, filepath.Base(os.Args[0]), os.Args[1:], &caller{
		IO:   command.IO{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr},
		root: "/",
		env:  environment(os.Environ()),
	})
	stop()
	os.Exit(status)
}

// caller is what surrounds a tool.
type caller struct {
	command.IO
	root string // the system that the tools work for, but for tests "/"
	env  map[string]string
}

// path is a file of the system.
func (c *caller) path(name string) string { return filepath.Join(c.root, name) }

// run is main without the process around it.
func run(ctx context.Context, name string, args []string, c *caller) int {
	t := find(name)
	if t == nil && len(args) > 0 {
		if t = find(args[0]); t != nil {
			name, args = args[0], args[1:]
		}
	}
	if t == nil {
		return program().Run(ctx, args, c.IO)
	}
	out := &command.Output{W: c.Stdout}
	c.Stdout = out
	err := t.run(ctx, c, name, args)
	if err == nil {
		err = out.Err()
	}
	switch {
	case err == nil:
		return command.StatusOK
	case errors.Is(err, errHelp):
		return program().Run(ctx, []string{"help", name}, c.IO)
	case ctx.Err() != nil:
		fmt.Fprintf(c.Stderr, "%s: interrupted\n", name)
		return command.StatusInterrupted
	}
	command.Print(c.Stderr, name, err)
	if e, ok := errors.AsType[*exit](err); ok {
		return e.status
	}
	return command.StatusFailed
}

// exit is an error with the status that the original ends with. All other
// errors end with 1: what command's statuses mean, 2 above all, is something
// else for the originals.
type exit struct {
	status int
	err    error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

// errHelp asks for the tool's help.
var errHelp = errors.New("help")

// usage is a wrong command line, as Python's argparse ends.
func usage(format string, args ...any) error { return &exit{2, fmt.Errorf(format, args...)} }

// tool is one of the programs.
type tool struct {
	name, args, short, long, example string

	run func(ctx context.Context, c *caller, name string, args []string) error
}

func find(name string) *tool {
	for _, t := range tools() {
		if t.name == name {
			return &t
		}
	}
	return nil
}

// tools is the table of them, as help lists it.
func tools() []tool {
	return []tool{
		{
			"cache-url", "[-f] URL FILE", "bring what a URL names into a file, unless the file is as new",
			"HTTP, HTTPS and file URLs. -f asks all caches on the way for a new copy. Ends with 44 when the server has no\n" +
				"such file, and with 1 for other errors, after trying again what may pass.",
			"cache-url https://example.org/base.img /var/cache/base.img", cacheURL,
		},
		{
			"dib-run-parts", "[--list] DIRECTORY", "run a directory of hooks",
			"Sources DIRECTORY/../environment.d and runs the hooks one after the other until one fails; its status is\n" +
				"then the exit status. --list prints them. RUN_PARTS_REGEX replaces what a hook's name must match.",
			"dib-run-parts /tmp/in_target.d/install.d", runParts,
		},
		{
			"install-packages", "[-e | -u] [-m ELEMENT] [PACKAGE...]", "install packages with the distribution's package manager",
			"-e removes them, -u upgrades all packages instead, -m translates the names by an element's pkg-map first.\n" +
				"No packages are no error. Only apt is known so far. Ends with the package manager's status.",
			"install-packages -m nova nova-api", installPackages,
		},
		{
			"merge-svc-map", "[--elements NAMES --path DIRECTORIES] [--distro NAME] FILE", "write the table of services for an image",
			"Runs beside the image, not in it: merges the svc-map files of elements for the distribution, by default\n" +
				"that of DISTRO_NAME. In a hook, the image's elements need not be named.",
			"merge-svc-map --elements 'nova glance' --path elements mnt/usr/share/svc-map/services", mergeServices,
		},
		{
			"package-installs-squash", "[--elements NAMES --path DIRECTORIES] FILE", "write what an image's elements install",
			"Runs beside the image, not in it: squashes the package-installs files of elements into FILE. ARCH,\n" +
				"DIB_PYTHON_VERSION, DIB_DEFAULT_INSTALLTYPE and what the files name are taken from the environment.\n" +
				"In a hook, the image's elements need not be named.",
			"package-installs-squash --elements 'nova glance' --path elements mnt/tmp/package-installs.json", squash,
		},
		{
			"package-installs-v2", "--phase PHASE [--uninstall] [-n] FILE", "install or uninstall what elements ask for in a phase",
			"FILE is what package-installs-squash wrote. The packages of all elements are installed at once, under the\n" +
				"names of the distribution. -n prints the command only.",
			"package-installs-v2 --phase install.d /tmp/package-installs.json", packageInstalls,
		},
		{
			"pkg-map", "(--element NAME | --pkg-map FILE) [--distro D] [--release R] [--missing-ok] [--prefix TEXT] PACKAGE...",
			"translate names of packages",
			"Prints what each package is called in the distribution, by default that of DISTRO_NAME and DIB_RELEASE.\n" +
				"Ends with 1 for an error or a package without a name, and 2 when the element has no map; with\n" +
				"--missing-ok such packages keep their names.",
			"pkg-map --element nova --distro debian nova-api", mapPackages,
		},
		{
			"source-repositories", "", "fetch the sources that elements register",
			"Runs beside the image, not in it, in a hook: reads source-repository-* in TMP_HOOKS_PATH and brings what they\n" +
				"name into TMP_MOUNT_PATH, through the cache in DIB_IMAGE_CACHE.",
			"source-repositories", sources,
		},
		{
			"svc-map", "SERVICE...", "translate names of services",
			"Prints what each service is called in this image: its own name when it has a unit, else what the table says.",
			"svc-map nova-api", mapServices,
		},
	}
}

// program is what imgtools is by its own name: help, version and completion.
func program() *command.Program {
	p := &command.Program{
		Name: "imgtools", Version: version, Short: "what elements call inside an image",
		Long: "Each command is also found by its own name, through a link to this program. It takes the arguments of\n" +
			"diskimage-builder's tool of that name and ends with that tool's exit statuses.",
	}
	for _, t := range tools() {
		p.Commands = append(p.Commands, &command.Command{Name: t.name, Args: t.args, Short: t.short, Long: t.long, Example: t.example})
	}
	return p
}

// environment makes a map of NAME=value words.
func environment(words []string) map[string]string {
	env := map[string]string{}
	for _, w := range words {
		if name, value, ok := strings.Cut(w, "="); ok {
			env[name] = value
		}
	}
	return env
}
