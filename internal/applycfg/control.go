package applycfg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// Control is what a template's .oac file says about the file it makes.
type Control struct {
	Mode     fs.FileMode // permission bits; 0 keeps the existing file's, else 0644
	UID, GID int         // -1 keeps the existing file's, else the process's
	NoEmpty  bool        // an empty file is not created, and removed when it is there
}

// noControl is the Control of a template without an .oac file.
var noControl = Control{UID: -1, GID: -1}

// accounts are users and groups that were looked up, by "u" or "g", the kind
// of the word and the word.
type accounts map[string]int

// readControl reads an .oac file: a YAML 1.1 mapping with the keys mode,
// owner, group and allow_empty. A file that is empty, or none, says nothing.
// Owners and groups are those of the running system; nil accounts look none up
// and keep what there is.
func (a *accounts) readControl(path string) (Control, error) {
	c := noControl
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return c, nil
	}
	m, err := yaml11.Read(path)
	if err != nil {
		return c, command.BadInput(err, oacHint)
	}
	if m.Kind != yaml11.Mapping {
		if falsy(m) {
			return c, nil
		}
		return c, command.BadInput(fmt.Errorf("%s:%d: not a mapping", path, m.Line), oacHint)
	}
	for _, p := range m.Pairs {
		if err := a.set(&c, p.Key, p.Value); err != nil {
			return c, command.BadInput(fmt.Errorf("%s:%d: %w", path, p.Key.Line, err), oacHint)
		}
	}
	return c, nil
}

// falsy is a document that the original takes for an empty one.
func falsy(n *yaml11.Node) bool {
	switch n.Kind {
	case yaml11.Null:
		return true
	case yaml11.Bool:
		return !n.Bool
	case yaml11.Int:
		return n.Int.Sign() == 0
	case yaml11.Float:
		return n.Float == 0
	case yaml11.Text, yaml11.Binary:
		return n.Text == ""
	}
	return n.Kind == yaml11.List && len(n.Items) == 0
}

const oacHint = "the keys of an .oac file are mode (0640), owner, group and allow_empty (true or false)"

func (a *accounts) set(c *Control, key, v *yaml11.Node) (err error) {
	name := key.Text
	if key.Kind != yaml11.Text {
		name = ""
	}
	switch name {
	case "mode":
		c.Mode, err = mode(v)
	case "owner":
		c.UID, err = a.number("owner", "user", "passwd", v)
	case "group":
		c.GID, err = a.number("group", "group", "group", v)
	case "allow_empty":
		if v.Kind != yaml11.Bool {
			return fmt.Errorf("allow_empty %q is neither true nor false", v.Text)
		}
		c.NoEmpty = !v.Bool
	case "set": // a method in the original, accepted and without effect
	default:
		return fmt.Errorf("no such key: %q", key.Text)
	}
	return err
}

func mode(v *yaml11.Node) (fs.FileMode, error) {
	if v.Kind != yaml11.Int {
		return 0, fmt.Errorf("mode %q is no number; write it as 0640, without quotes", v.Text)
	}
	if v.Int.Sign() < 0 || !v.Int.IsInt64() || v.Int.Int64() > 0o777 {
		return 0, fmt.Errorf("mode %s is %#o, beyond 0777; an octal number begins with 0", v.Text, v.Int)
	}
	return fs.FileMode(v.Int.Int64()), nil
}

// number is that of a user or group, given by name or, without quotes, by
// number.
func (a *accounts) number(key, what, database string, v *yaml11.Node) (int, error) {
	var word string
	switch v.Kind {
	case yaml11.Int:
		word = "#" + v.Int.String()
	case yaml11.Text:
		word = v.Text
	default:
		return -1, fmt.Errorf("%s must be a name or a number", key)
	}
	if a == nil {
		return -1, nil
	}
	id := database + " " + strconv.Itoa(int(v.Kind)) + word
	if n, ok := (*a)[id]; ok {
		return n, nil
	}
	n, ok := lookup(database, word, v.Kind == yaml11.Int)
	if !ok {
		return -1, fmt.Errorf("%s %q: no such %s on this system", key, v.Text, what)
	}
	if *a == nil {
		*a = accounts{}
	}
	(*a)[id] = n
	return n, nil
}

// lookup asks the system's files, and then the name service, which other
// programs reach through getent(1).
func lookup(database, word string, byNumber bool) (int, bool) {
	word = strings.TrimPrefix(word, "#")
	var id string
	var err error
	switch {
	case database == "passwd":
		find := user.Lookup
		if byNumber {
			find = user.LookupId
		}
		var u *user.User
		if u, err = find(word); err == nil {
			id = u.Uid
		}
	default:
		find := user.LookupGroup
		if byNumber {
			find = user.LookupGroupId
		}
		var g *user.Group
		if g, err = find(word); err == nil {
			id = g.Gid
		}
	}
	if err != nil {
		if _, err := strconv.Atoi(word); (err == nil) != byNumber || strings.HasPrefix(word, "-") {
			return -1, false // getent takes digits for a number
		}
		out, err := exec.Command("getent", database, word).Output()
		fields := strings.Split(string(out), ":")
		if err != nil || len(fields) < 3 {
			return -1, false
		}
		id = fields[2]
	}
	n, err := strconv.Atoi(id)
	return n, errors.Join(err) == nil
}
