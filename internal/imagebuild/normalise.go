package imagebuild

import (
	"errors"
	"path"
	"strings"
	"time"

	"goldsmith/internal/tree"
)

// emptied are directories whose content belongs to the build or to a running
// machine: they exist in an image and hold nothing.
var emptied = []string{
	"dev", "proc", "sys", "run", "tmp", "var/tmp",
	"var/lib/apt/lists", "var/cache/apt/archives", "var/cache/ldconfig",
}

// removed are files that differ from build to build, that a machine must make
// for itself, or that leaked from the build host. Patterns are path.Match's.
var removed = []string{
	"etc/ssh/ssh_host_*",                                      // one identity for every machine would be none
	"var/lib/dbus/machine-id",                                 // a copy; the first boot makes it
	"etc/hostname",                                            // the build host's
	"etc/.pwd.lock",                                           //
	"etc/*-", "var/cache/debconf/*-old", "var/lib/dpkg/*-old", // backups of files that are there
	"var/cache/apt/*.bin", // indexes that apt makes again
	"var/lib/apt/extended_states.*",
	"var/lib/systemd/random-seed", // a seed that is known is no seed
	"root/.bash_history", "root/.wget-hsts",
}

// normalise takes out of the tree what belongs to this build rather than to
// the image, and makes no file newer than epoch.
func normalise(t *tree.Tree, epoch time.Time) error {
	t.RemoveFunc(func(e *tree.Entry) bool {
		return insideEmptied(e.Path) || matches(e.Path) ||
			e.Kind() == tree.ModeRegular && strings.HasPrefix(e.Path, "var/log/")
	})
	// An empty machine-id makes the first boot generate one; a missing one
	// would make systemd think that the image was never set up (machine-id(5)).
	if etc := t.Lookup("etc"); etc != nil {
		if !etc.IsDir() {
			return errors.New("image: /etc is not a directory")
		}
		t.Remove("etc/machine-id") // whatever it is
		t.AddFile("etc/machine-id", 0o444, nil)
	}
	for _, dir := range emptied { // when they were last changed depends on what was in them
		if e := t.Lookup(dir); e != nil && e.IsDir() {
			e.ModTime = epoch
		}
	}
	t.ClampTimes(epoch)
	return nil
}

func matches(p string) bool {
	for _, pattern := range removed {
		if ok, _ := path.Match(pattern, p); ok {
			return true
		}
	}
	return false
}

func insideEmptied(p string) bool {
	for _, dir := range emptied {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
