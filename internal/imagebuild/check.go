package imagebuild

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/pkginstall"
	"goldsmith/internal/pkgmap"
	"goldsmith/internal/sourcerepo"
	"goldsmith/internal/svcmap"
	"goldsmith/internal/vm"
)

// checkPrograms finds the programs that the build will need before the long
// work starts.
func (b *build) checkPrograms() error {
	var need []string
	for _, o := range b.outputs {
		need = append(need, formatOf(o).programs...)
	}
	if b.needsMachine() {
		need = slices.Concat(need, vm.Programs, []string{"tar"}, b.layout.plan.Programs())
	}
	for _, p := range need {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		err := fmt.Errorf("%s: not installed, and this build needs it", p)
		if b.needsMachine() {
			if place := b.layout.plan.Wants(p); place != "" {
				err = fmt.Errorf("%s: %w", place, err)
			}
		}
		return command.Missing(err, "ci/install-deps.sh names Debian's packages")
	}
	if err := checkConversions(b.outputs); err != nil {
		return err
	}
	if slices.Contains(b.outputs, "docker") {
		if err := (command.Exec{Args: []string{"docker", "version"}}).Run(context.Background()); err != nil {
			return command.Missing(fmt.Errorf("docker: no daemon answers: %w", err), "start it, or leave -t docker out")
		}
	}
	own := func(o string) bool { return formatOf(o).live || b.layout == nil && isDisk(o) }
	if slices.ContainsFunc(b.outputs, own) {
		if _, err := os.Stat(filepath.Join(b.opts.Bin, "imginit")); err != nil {
			return command.Missing(fmt.Errorf("%s: imginit is not there", b.opts.Bin), "'make build' puts all programs into one directory")
		}
	}
	return nil
}

// checkArch refuses architectures whose disks the build's own machine cannot
// make, and whose programs this host cannot run.
func (b *build) checkArch() error {
	switch b.def.Arch {
	case "amd64", "i386", "x86_64":
		return nil
	}
	return command.BadInput(fmt.Errorf("architecture %q: only amd64 (and i386, which runs on it) can be built for now", b.def.Arch), "")
}

// checkFiles reads what elements say of packages, services and sources, so
// that a mistake is found before anything is built.
func (b *build) checkFiles() error {
	for _, e := range b.elements {
		if _, err := pkginstall.Check(e); err != nil {
			return err
		}
		if err := sourcerepo.Check(e.Dir); err != nil && b.settings(rootPhase)["NO_SOURCE_REPOSITORIES"] == "" {
			return err
		}
		if _, err := pkgmap.Read(filepath.Join(e.Dir, "pkg-map")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if _, err := b.deployParts(); err != nil {
		return err
	}
	_, err := svcmap.Merge(b.elements, b.distribution())
	return err
}
