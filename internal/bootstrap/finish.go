package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// standIns keep packages' scripts from starting services and, unless it is
// wanted, from generating an initramfs. invoke-rc.d(8) asks policy-rc.d, which
// says "forbidden".
var standIns = []struct {
	path, text string
	initramfs  bool
}{
	{"/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", false},
	{"/usr/sbin/start-stop-daemon", "#!/bin/sh\nexit 0\n", false},
	{"/usr/sbin/update-initramfs", "#!/bin/sh\nexit 0\n", true},
}

// aside is where the real program waits.
const aside = ".goldsmith-real"

// standIn puts the stand-ins in the place of programs that are unpacked.
func (s *system) standIn() error {
	for _, x := range standIns {
		if s.tree.exists(x.path + aside) {
			continue
		}
		switch there := s.tree.exists(x.path); {
		case !there && x.path != standIns[0].path:
			continue
		case there && x.path == standIns[0].path:
			continue // ours, or a package's own
		case there:
			if err := s.tree.rename(x.path, path.Base(x.path)+aside); err != nil {
				return err
			}
		}
		if err := s.tree.write(x.path, []byte(x.text), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// standBack brings the real programs back.
func (s *system) standBack() error {
	for _, x := range standIns {
		if s.tree.exists(x.path + aside) {
			if err := s.tree.rename(x.path+aside, path.Base(x.path)); err != nil {
				return err
			}
		} else if text, err := s.tree.read(x.path); err != nil || string(text) == x.text {
			if err := s.tree.remove(x.path); err != nil {
				return err
			}
		}
	}
	return nil
}

// finish checks that every package is installed, and leaves apt what it needs
// to go on.
func (s *system) finish(ctx context.Context) error {
	s.clock("finish")
	if err := s.checkInstalled(); err != nil {
		return err
	}
	if err := s.standBack(); err != nil {
		return err
	}
	if s.options.Initramfs && s.tree.exists("/usr/sbin/update-initramfs") {
		s.clock("initramfs")
		if err := s.run(ctx, "initramfs", []string{"update-initramfs", "-c", "-k", "all"}); err != nil {
			return err
		}
	}
	if err := s.writeApt(); err != nil {
		return err
	}
	// Logs and copies of this day; a machine makes its own identity.
	for _, f := range []string{
		"/var/log/alternatives.log", "/var/log/bootstrap.log", "/var/log/dpkg.log", "/var/lib/dbus/machine-id",
		adminDir + "/lock", adminDir + "/lock-frontend", adminDir + "/triggers/Lock",
		adminDir + "/status-old", "/var/cache/ldconfig/aux-cache",
		"/var/cache/debconf/config.dat-old", "/var/cache/debconf/templates.dat-old",
	} {
		if err := s.tree.remove(f); err != nil {
			return err
		}
	}
	if s.tree.exists("/etc/machine-id") {
		if err := s.tree.write("/etc/machine-id", nil, 0o644); err != nil {
			return err
		}
	}
	return s.emptyRun()
}

// emptyRun takes away what scripts left where a machine has a new file system
// at each start, but for the directory of locks, which base-files ships.
func (s *system) emptyRun() error {
	root, err := os.OpenRoot(s.root)
	if err != nil {
		return err
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), "run")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() != "lock" {
			if err := root.RemoveAll("run/" + e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkInstalled reads dpkg's own word for it.
func (s *system) checkInstalled() error {
	text, err := s.tree.read(adminDir + "/status")
	if err != nil {
		return err
	}
	left := map[string]bool{}
	for _, p := range s.packages {
		left[p.Name] = true
	}
	name := ""
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		switch key {
		case "Package":
			name = value
		case "Status":
			if value != "install ok installed" {
				return fmt.Errorf("package %s: its state is %q after the configuration", name, value)
			}
			delete(left, name)
		}
	}
	for _, p := range s.packages {
		if left[p.Name] {
			return fmt.Errorf("package %s: dpkg does not know it after the configuration", p.Name)
		}
	}
	return nil
}

// writeApt writes the sources, and which packages apt may remove.
func (s *system) writeApt() error {
	if len(s.plan.Sources) > 0 {
		text := strings.Join(s.plan.Sources, "\n") + "\n"
		if err := s.tree.write("/etc/apt/sources.list", []byte(text), 0o644); err != nil {
			return err
		}
	}
	var b strings.Builder
	for _, p := range s.packages {
		if p.Auto {
			fmt.Fprintf(&b, "Package: %s\nArchitecture: %s\nAuto-Installed: 1\n\n", p.Name, s.plan.Arch)
		}
	}
	return s.tree.write("/var/lib/apt/extended_states", []byte(b.String()), 0o644)
}
