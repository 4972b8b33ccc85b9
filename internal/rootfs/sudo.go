package rootfs

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// sudo is what hooks of existing elements call on the build host. In a user
// namespace the real one refuses to work, since its files belong to nobody
// there; the builder is root in it, and this program takes sudo's place.
const sudo = "sudo"

// replaceSudo lays this program over the machine's sudo, if it has one.
func replaceSudo() error {
	path, err := exec.LookPath(sudo)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return nil // whoever calls it is told
	}
	own, err := os.Executable()
	if err != nil {
		return err
	}
	return bind(own, path, 0, 0)
}

// sudoPath is where sudo looks for programs, by Debian's sudoers file.
const sudoPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// sudoCall is a command line of sudo(8).
type sudoCall struct {
	keep bool     // the caller's environment
	user string   // empty means root
	set  []string // NAME=value
	args []string // may be empty, as for -v
}

// parseSudo reads a command line. Options that only matter to who asks for a
// password have no effect.
func parseSudo(args []string) (*sudoCall, error) {
	c := &sudoCall{}
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && args[0] != "--" {
		word := args[0]
		args = args[1:]
		name, value, given := strings.Cut(word, "=")
		switch {
		case name == "--preserve-env":
			c.keep = true
		case slices.Contains([]string{"--non-interactive", "--set-home", "--stdin", "--validate", "--reset-timestamp"}, name):
		case name == "--user" && given:
			c.user = value
		case name == "-u" || name == "--user":
			if len(args) == 0 {
				return nil, fmt.Errorf("%s: needs a user", word)
			}
			c.user, args = args[0], args[1:]
		case strings.Trim(word, "EHSknv") == "-":
			c.keep = c.keep || strings.Contains(word, "E")
		default:
			return nil, fmt.Errorf("%s: not known to this stand-in; the real sudo does not work in a build without root", word)
		}
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	for len(args) > 0 && strings.Contains(args[0], "=") && !strings.HasPrefix(args[0], "/") {
		c.set, args = append(c.set, args[0]), args[1:]
	}
	c.args = args
	return c, nil
}

// environment is the command's: a small one, as with sudo's env_reset, unless
// the caller's is to be kept.
func (c *sudoCall) environment(callers []string, home string) []string {
	var env []string
	for _, e := range callers {
		name, _, _ := strings.Cut(e, "=")
		if c.keep || slices.Contains([]string{"TERM", "LANG", "DISPLAY"}, name) || strings.HasPrefix(name, "LC_") {
			env = append(env, e)
		}
	}
	name := c.user
	if name == "" {
		name = "root"
	}
	if !c.keep {
		env = append(env, "HOME="+home)
	}
	env = append(env, "PATH="+sudoPath, "USER="+name, "LOGNAME="+name, "SHELL=/bin/bash",
		"SUDO_USER=root", "SUDO_UID=0", "SUDO_GID=0", "SUDO_COMMAND="+strings.Join(c.args, " "))
	return append(env, c.set...)
}

// runSudo becomes the command. It returns when it cannot, or there is none.
func runSudo(args []string) error {
	c, err := parseSudo(args)
	if err != nil || len(c.args) == 0 {
		return err
	}
	homeDir := home
	if c.user != "" && c.user != "root" {
		u, err := user.Lookup(c.user)
		if err != nil {
			return err
		}
		homeDir = u.HomeDir
		if err := becomeUser(u); err != nil {
			return fmt.Errorf("user %s: %w", c.user, err)
		}
	}
	env := c.environment(os.Environ(), homeDir)
	if err := os.Setenv("PATH", sudoPath); err != nil {
		return err
	}
	path, err := exec.LookPath(c.args[0])
	if err != nil {
		return fmt.Errorf("%s: command not found", c.args[0])
	}
	return fmt.Errorf("%s: %w", path, syscall.Exec(path, c.args, env))
}

func becomeUser(u *user.User) error {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{gid}); err != nil {
		return err
	}
	if err := syscall.Setgid(gid); err != nil {
		return err
	}
	return syscall.Setuid(uid)
}
