package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// imageIDs is how many user ids, and group ids, an image's files can have: 0
// to 65535, all that a Debian system gives out. Its 0 is the user who builds,
// the others are that user's subordinate ids, subuid(5).
const imageIDs = 1 << 16

// Files of subordinate ids: lines of NAME:FIRST:COUNT, where NAME may also be
// a user id.
const (
	subUID = "/etc/subuid"
	subGID = "/etc/subgid"
)

// inUserNamespace tells whether this process is in another user namespace than
// the kernel's first, user_namespaces(7).
var inUserNamespace = sync.OnceValue(func() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(text)), []string{"0", "0", "4294967295"})
})

// isSuperuser tells whether this process is root, and no namespace's.
func isSuperuser() bool { return os.Geteuid() == 0 && !inUserNamespace() }

// idMaps are the arguments of newuidmap(1) and newgidmap(1) after the process
// id: triples of first id inside, first id outside, count.
type idMaps struct{ users, groups []string }

// findIDs decides which ids an ordinary user's namespace has.
func findIDs() (*idMaps, error) {
	for _, p := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, command.Missing(fmt.Errorf("%s: not installed, and a build as an ordinary user needs it", p),
				"Debian packages it as uidmap, Fedora as shadow-utils; or run as root")
		}
	}
	id := strconv.Itoa(os.Getuid())
	name := id
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	users, err := os.ReadFile(subUID)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	groups, err := os.ReadFile(subGID)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	free := max(firstFree(string(users)), firstFree(string(groups)))
	remedy := fmt.Sprintf("sudo usermod --add-subuids %[1]d-%[2]d --add-subgids %[1]d-%[2]d %[3]s; or run as root",
		free, free+imageIDs-1, name)
	m := &idMaps{}
	if m.users, err = mapIDs(string(users), os.Getuid(), name, id); err != nil {
		return nil, command.Missing(fmt.Errorf("%s: %w", subUID, err), remedy)
	}
	if m.groups, err = mapIDs(string(groups), os.Getgid(), name, id); err != nil {
		return nil, command.Missing(fmt.Errorf("%s: %w", subGID, err), remedy)
	}
	return m, nil
}

// idRange are count ids from first on.
type idRange struct{ first, count uint64 }

// idRanges reads the lines of a file of subordinate ids that are of one of the
// names, or all without a name. Lines that are none are left out, as by
// newuidmap.
func idRanges(text string, names ...string) []idRange {
	var out []idRange
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || len(names) > 0 && !slices.Contains(names, f[0]) {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			out = append(out, idRange{first, count})
		}
	}
	return out
}

// mapIDs maps 0 to the user's own id and the rest, in order, to the
// subordinate ids of the user, who has several names.
func mapIDs(text string, own int, names ...string) ([]string, error) {
	args := []string{"0", strconv.Itoa(own), "1"}
	next := uint64(1)
	for _, r := range idRanges(text, names...) {
		count := min(r.count, imageIDs-next)
		if count == 0 {
			break
		}
		args = append(args, fmt.Sprint(next), fmt.Sprint(r.first), fmt.Sprint(count))
		next += count
	}
	switch {
	case next == 1:
		return nil, fmt.Errorf("no subordinate ids for the user %s", names[0])
	case next < imageIDs:
		return nil, fmt.Errorf("%d subordinate ids for the user %s; an image needs %d", next-1, names[0], imageIDs-1)
	}
	return args, nil
}

// firstFree is where a range begins that nobody has yet.
func firstFree(text string) uint64 {
	free := uint64(100000) // useradd's SUB_UID_MIN, login.defs(5)
	for _, r := range idRanges(text) {
		free = max(free, r.first+r.count)
	}
	return free
}

// write gives the namespace of a process its ids.
func (m *idMaps) write(pid int) error {
	for _, args := range [][]string{
		append([]string{"newuidmap", strconv.Itoa(pid)}, m.users...),
		append([]string{"newgidmap", strconv.Itoa(pid)}, m.groups...),
	} {
		if err := (command.Exec{Args: args}).Run(context.Background()); err != nil {
			return command.Missing(err, "newuidmap and newgidmap must be set-user-ID root or have the capabilities "+
				"cap_setuid and cap_setgid, and a container must have the ids itself; or run as root")
		}
	}
	return nil
}

// enterMapped is the first argument of the helper process that waits until its
// user namespace has ids and becomes the inner process then.
const enterMapped = "goldsmith-enter-mapped"

// startMapped starts cmd in a user namespace of its own, as its root.
func startMapped(cmd *exec.Cmd, ids *idMaps) (err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close(), w.Close()) }()
	cmd.Args = append([]string{self, enterMapped}, cmd.Args...)
	cmd.ExtraFiles = []*os.File{r}
	cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	// The helper has no id yet, and would lose all capabilities with exec(3);
	// ambient ones stay. Without them the next exec would also reset its
	// parent-death signal, prctl(2).
	for c := range uintptr(unix.CAP_LAST_CAP + 1) {
		cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, c)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = ids.write(cmd.Process.Pid)
	if err == nil {
		_, err = w.Write([]byte{1})
	}
	if err != nil {
		return errors.Join(err, cmd.Process.Kill(), ignoreExit(cmd.Wait()))
	}
	return nil
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// becomeRoot is the helper: when its namespace has ids it is user 0 there, and
// starts the program once more. It returns when it cannot.
func becomeRoot(args []string) error {
	f := os.NewFile(3, "ids")
	if n, _ := f.Read(make([]byte, 1)); n == 0 {
		return errors.New("namespaces: the program outside has ended")
	}
	if err := f.Close(); err != nil {
		return err
	}
	runtime.LockOSThread()
	// User 0 has all capabilities anyway; no program of the build inherits them
	// by other means.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return fmt.Errorf("%s: %w", self, syscall.Exec(self, args, os.Environ()))
}

// restrictions are what keeps ordinary users from user namespaces: files below
// /proc/sys, and what they hold then.
var restrictions = []struct{ file, value, remedy string }{
	{"kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"},
	{"user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=15000"},
	{"kernel/apparmor_restrict_unprivileged_userns", "1", "give this program an AppArmor profile with \"userns\" " +
		"(docs/operations.md), or sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
}

// whyNot adds to an error of making namespaces, or of the first use of their
// rights, what has to be enabled. proc is /proc/sys; root is the machine's own.
func whyNot(proc string, root bool, err error) error {
	if command.Status(err) == command.StatusMissing {
		return err
	}
	if root {
		return command.Missing(err, "root of a container may make none: run it privileged, or as an ordinary user")
	}
	for _, r := range restrictions {
		text, readErr := os.ReadFile(filepath.Join(proc, r.file))
		if readErr == nil && strings.TrimSpace(string(text)) == r.value {
			err = fmt.Errorf("%w (%s is %s)", err, strings.ReplaceAll(r.file, "/", "."), r.value)
			return command.Missing(err, r.remedy+"; or run as root")
		}
	}
	return command.Missing(err,
		"this kernel, or the container that this runs in, allows ordinary users no user namespaces; or run as root")
}
