package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/pkginstall"
	"goldsmith/internal/pkgmap"
)

// squash is package-installs-squash.
func squash(_ context.Context, c *caller, name string, args []string) error {
	elements, file, err := c.elementsAndFile(args, nil)
	if err != nil {
		return err
	}
	plan, warnings, err := pkginstall.Squash(elements, c.env)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		fmt.Fprintf(c.Stderr, "%s: warning: %s\n", name, w)
	}
	b, err := json.MarshalIndent(plan, "", " ")
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(b, '\n'), 0o644)
}

// packageInstalls is package-installs-v2.
func packageInstalls(ctx context.Context, c *caller, _ string, args []string) error {
	var phase string
	var uninstall, noop bool
	words, err := options{
		values: map[string]*string{"--phase": &phase},
		flags:  map[string]*bool{"--uninstall": &uninstall, "--noop": &noop},
		short:  map[string]string{"-n": "--noop"},
	}.parse(args)
	switch {
	case err != nil:
		return err
	case phase == "":
		return usage("--phase is required")
	case len(words) != 1:
		return usage("expected one file, found %d words", len(words))
	}
	plan, err := pkginstall.ReadPlan(words[0])
	if err != nil {
		return err
	}
	verb, entries, cmd := "install", plan[phase].Install, []string{"install-packages"}
	if uninstall {
		verb, entries, cmd = "uninstall", plan[phase].Uninstall, append(cmd, "-e")
	}
	if len(entries) == 0 {
		fmt.Fprintf(c.Stdout, "Nothing to %s\n", verb)
		return nil
	}
	names, err := c.translate(verb, entries, noop)
	if err != nil {
		return err
	}
	cmd = append(cmd, names...)
	if noop {
		fmt.Fprintln(c.Stdout, strings.Join(cmd, " "))
		return nil
	}
	err = command.Exec{
		Args: cmd, Stdout: c.Stdout, Log: c.Stderr,
		Remedy: "it is a link to imgtools, or comes with an operating system element",
	}.Run(ctx)
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		return fmt.Errorf("install-packages failed with returncode %d", x.Status) // it has said why
	}
	return err
}

// translate turns elements' names of packages into the distribution's, each
// once, sorted. With noop, names that cannot be translated stay.
func (c *caller) translate(verb string, entries []pkginstall.Entry, noop bool) ([]string, error) {
	by := map[string][]string{}
	for _, e := range entries {
		by[e.Element] = append(by[e.Element], e.Package)
	}
	set := map[string]bool{}
	for _, of := range slices.Sorted(maps.Keys(by)) {
		fmt.Fprintf(c.Stdout, "Map %s for %s: %s\n", verb, of, strings.Join(by[of], ", "))
		names, err := pkgmap.ForElement(c.path(pkgmap.Dir), of, c.env["DISTRO_NAME"], c.env["DIB_RELEASE"], by[of])
		switch {
		case err != nil && noop:
			names = by[of]
		case err != nil:
			return nil, err
		}
		for _, n := range names {
			set[n] = true
		}
	}
	return slices.Sorted(maps.Keys(set)), nil
}

// request is what install-packages is asked for.
type request struct {
	action   string // install, remove or dist-upgrade
	element  string // whose words the packages are; empty: the distribution's
	packages []string
}

// readRequest takes the arguments as getopt does: options anywhere, short
// ones together.
func readRequest(args []string) (*request, error) {
	r := &request{action: "install"}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			r.packages = append(r.packages, args[i+1:]...)
			return r, nil
		case strings.HasPrefix(a, "--"):
			return nil, fmt.Errorf("unrecognized option '%s'", a)
		case len(a) < 2 || a[0] != '-':
			r.packages = append(r.packages, a)
			continue
		}
	letters:
		for j, letter := range a[1:] {
			switch letter {
			case 'u':
				r.action = "dist-upgrade"
			case 'e':
				if r.action == "install" {
					r.action = "remove"
				}
			case 'h':
				return nil, errHelp
			case 'm':
				if r.element = a[j+2:]; r.element == "" {
					if i++; i == len(args) {
						return nil, errors.New("option requires an argument -- 'm'")
					}
					r.element = args[i]
				}
				break letters
			default:
				return nil, fmt.Errorf("invalid option -- '%c'", letter)
			}
		}
	}
	return r, nil
}

// installPackages is install-packages.
func installPackages(ctx context.Context, c *caller, name string, args []string) error {
	r, err := readRequest(args)
	if err != nil {
		return err
	}
	if r.action != "dist-upgrade" {
		if r.packages, err = c.packages(r); err != nil {
			return err
		}
		if len(r.packages) == 0 {
			fmt.Fprintf(c.Stdout, "Not running install-packages %s with empty packages list\n", r.action)
			return nil
		}
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return &exit{127, command.Hint(errors.New("apt-get: not installed"),
			"install-packages knows only apt so far; the operating system element has to bring its own")}
	}
	err = command.Exec{
		Args: aptArgs(r), Stdout: c.Stdout, Log: c.Stderr,
		Env: append(os.Environ(), "DEBIAN_FRONTEND=noninteractive"),
	}.Run(ctx)
	if x, ok := errors.AsType[*command.ExitError](err); ok && x.Status > 0 {
		return &exit{x.Status, fmt.Errorf("apt-get %s: exit status %d", r.action, x.Status)} // it has said why
	}
	return err
}

// packages are the single names that a request comes to.
func (c *caller) packages(r *request) ([]string, error) {
	lines := r.packages
	if r.element != "" {
		var out strings.Builder
		inner := *c
		inner.Stdout = &out
		if err := mapPackages(context.Background(), &inner, "pkg-map", append([]string{"--element", r.element, "--"}, r.packages...)); err != nil {
			return nil, &exit{1, err}
		}
		lines = []string{out.String()}
	}
	return strings.Fields(strings.Join(lines, " ")), nil
}

// aptArgs is the command that fulfils a request: it asks nothing, keeps
// changed configuration files, and installs nothing that is only recommended.
func aptArgs(r *request) []string {
	args := []string{
		"apt-get", "--option", "Dpkg::Options::=--force-confold", "--option", "Dpkg::Options::=--force-confdef",
		"--no-install-recommends", "--assume-yes", r.action,
	}
	if r.action == "dist-upgrade" {
		return args
	}
	return append(args, r.packages...)
}
