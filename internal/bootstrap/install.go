package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/dpkg"
)

// install unpacks and configures everything, in waves: first what is
// essential, for scripts to have what they may count on. A package whose
// preinst has to wait for another's configuration waits a wave.
func (s *system) install(ctx context.Context) error {
	essential := s.essential()
	if err := s.wave(ctx, nil, essential); err != nil {
		return err
	}
	if err := s.configure(ctx, essential); err != nil {
		return err
	}
	rest := slices.DeleteFunc(slices.Clone(s.packages), func(p *pkg) bool { return p.unpacked })
	scripted, plain := split(rest, func(p *pkg) bool { return p.has("preinst") })
	if err := s.unpackLater(ctx, plain); err != nil {
		return err
	}
	for len(scripted) > 0 {
		ready, waiting := split(scripted, func(p *pkg) bool { return s.ready(p, map[*pkg]bool{}) })
		if len(ready) == 0 {
			first := s.awaited(waiting)
			if len(first) == 0 {
				return fmt.Errorf("package %s: its Pre-Depends lead back to itself", waiting[0].Name)
			}
			if err := s.configure(ctx, first); err != nil {
				return err
			}
			continue
		}
		if err := s.wave(ctx, ready, ready); err != nil {
			return err
		}
		scripted = waiting
	}
	return s.configure(ctx, nil)
}

func split(list []*pkg, f func(*pkg) bool) (yes, no []*pkg) {
	for _, p := range list {
		if f(p) {
			yes = append(yes, p)
		} else {
			no = append(no, p)
		}
	}
	return yes, no
}

// wave runs the preinst scripts of packages and unpacks them. The essential
// ones have it the other way round.
func (s *system) wave(ctx context.Context, before, packages []*pkg) error {
	if err := s.preinst(ctx, before); err != nil {
		return err
	}
	if before == nil {
		if err := s.unpack(ctx, packages); err != nil {
			return err
		}
		scripted, _ := split(packages, func(p *pkg) bool { return p.has("preinst") })
		return s.preinst(ctx, scripted)
	}
	return s.unpackLater(ctx, packages)
}

// unpackLater is unpack for a tree in which packages are configured.
func (s *system) unpackLater(ctx context.Context, packages []*pkg) error {
	if err := s.unpack(ctx, packages); err != nil {
		return err
	}
	return s.activateFiles(packages)
}

// ready tells whether all that a package's preinst may count on works: its
// Pre-Depends are configured, or there is nothing to configure.
func (s *system) ready(p *pkg, seen map[*pkg]bool) bool {
	for _, need := range p.before {
		if !slices.ContainsFunc(s.meeting(need), func(q *pkg) bool { return s.works(q, seen) }) {
			return false
		}
	}
	return true
}

func (s *system) works(p *pkg, seen map[*pkg]bool) bool {
	if p.configured || seen[p] {
		return true
	}
	seen[p] = true
	if !p.unpacked || p.has("postinst") || len(p.conffiles) > 0 {
		return false
	}
	return !slices.ContainsFunc(p.needs, func(need dpkg.Alternatives) bool {
		return !slices.ContainsFunc(s.meeting(need), func(q *pkg) bool { return s.works(q, seen) })
	})
}

// awaited returns unpacked packages, with all that they need, that a waiting
// package's Pre-Depends name.
func (s *system) awaited(waiting []*pkg) []*pkg {
	for _, p := range waiting {
		in := map[*pkg]bool{}
		whole := true
		var add func(q *pkg)
		add = func(q *pkg) {
			if q.configured || in[q] {
				return
			}
			in[q] = true
			whole = whole && q.unpacked
			for _, need := range q.needs {
				for _, r := range s.meeting(need) {
					add(r)
				}
			}
		}
		for _, need := range p.before {
			for _, q := range s.meeting(need) {
				add(q)
			}
		}
		if whole && len(in) > 0 {
			return slices.DeleteFunc(slices.Clone(s.packages), func(q *pkg) bool { return !in[q] })
		}
	}
	return nil
}

// environment of dpkg and the packages' scripts: nobody is asked anything.
func environment() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "SHELL=/bin/sh",
		"DEBIAN_FRONTEND=noninteractive", "DEBCONF_NONINTERACTIVE_SEEN=true", "DEBCONF_NOWARNINGS=yes",
		"UCF_FORCE_CONFFNEW=1",
	}
}

const stageDir = adminDir + "/goldsmith.ci"

// runPreinst runs the preinst of each package, whose control files lie in a
// directory of their own, from where and with what dpkg runs it
// (src/main/script.c). Its arguments are triples of directory, package and
// architecture.
const runPreinst = `cd /
while [ $# -gt 0 ]; do
    rm -rf /var/lib/dpkg/tmp.ci
    mv "$1" /var/lib/dpkg/tmp.ci
    DPKG_MAINTSCRIPT_PACKAGE=$2 DPKG_MAINTSCRIPT_ARCH=$3 DPKG_MAINTSCRIPT_NAME=preinst \
        DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= \
        /var/lib/dpkg/tmp.ci/preinst install || {
        status=$?
        echo "package $2: its preinst ended with status $status"
        exit "$status"
    }
    shift 3
done
rm -rf /var/lib/dpkg/tmp.ci /var/lib/dpkg/goldsmith.ci
`

// preinst runs the packages' preinst scripts, in the plan's order.
func (s *system) preinst(ctx context.Context, packages []*pkg) error {
	if len(packages) == 0 {
		return nil
	}
	s.clock("preinst")
	args := []string{"/bin/sh", "-c", runPreinst, "preinst"}
	for _, p := range packages {
		dir := stageDir + "/" + p.Name
		for name, data := range p.control.Files {
			mode := uint32(0o644)
			if slices.Contains(scripts, name) {
				mode = 0o755
			}
			if err := s.tree.write(dir+"/"+name, data, mode); err != nil {
				return err
			}
		}
		args = append(args, dir, p.Name, p.Arch)
	}
	return s.run(ctx, "preinst", args)
}

// configure has dpkg configure packages; nil means all that are unpacked, and
// all triggers.
func (s *system) configure(ctx context.Context, packages []*pkg) error {
	s.clock("configure")
	if err := s.standIn(); err != nil {
		return err
	}
	args := []string{"dpkg", "--force-unsafe-io", "--force-confnew", "--log=/dev/null", "--configure"}
	if packages == nil {
		args = append(args, "--pending")
		packages = s.packages
	}
	for _, p := range packages {
		if len(packages) < len(s.packages) && !p.configured {
			args = append(args, p.id())
		}
	}
	if err := s.run(ctx, "configuration", args); err != nil {
		return err
	}
	for _, p := range packages {
		p.configured = true
	}
	return nil
}

// run runs a program in the tree.
func (s *system) run(ctx context.Context, what string, args []string) error {
	err := withoutSync(func() error {
		return s.chroot.Exec(ctx, command.Exec{Args: args, Env: append(environment(), s.options.Env...), Log: s.options.Log})
	})
	ee, ended := errors.AsType[*command.ExitError](err)
	if !ended {
		return err
	}
	for _, line := range slices.Backward(ee.Tail) {
		if strings.HasPrefix(line, "package ") || strings.HasPrefix(line, "dpkg: error processing package ") {
			return fmt.Errorf("%s: %s: %w", what, strings.TrimPrefix(line, "dpkg: error processing "), err)
		}
	}
	return fmt.Errorf("%s: %w", what, err)
}
