package applycfg

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
)

// Control is what a template's .oac file says about the file it makes.
type Control struct {
	Mode     fs.FileMode // permission bits; 0 keeps the existing file's, else 0644
	UID, GID int         // -1 keeps the existing file's, else the process's
	NoEmpty  bool        // an empty file is not created, and removed when it is there
}

// noControl is the Control of a template without an .oac file.
var noControl = Control{UID: -1, GID: -1}

// readControl reads an .oac file: a YAML 1.1 mapping with the keys mode,
// owner, group and allow_empty. A file that is not there, or empty, says
// nothing. Owners and groups are those of the running system.
func readControl(path string) (Control, error) {
	c := noControl
	if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() {
		return c, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return c, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return c, command.BadInput(fmt.Errorf("%s: %w", path, err), oacHint)
	}
	if doc.Kind == 0 || doc.Content[0].Tag == "!!null" {
		return c, nil
	}
	m := doc.Content[0]
	if m.Kind != yaml.MappingNode {
		return c, command.BadInput(fmt.Errorf("%s:%d: not a mapping", path, m.Line), oacHint)
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		key, value := m.Content[i], m.Content[i+1]
		if value.Kind == yaml.AliasNode {
			value = value.Alias
		}
		if err := c.set(key.Value, value); err != nil {
			return c, command.BadInput(fmt.Errorf("%s:%d: %w", path, key.Line, err), oacHint)
		}
	}
	return c, nil
}

const oacHint = "the keys of an .oac file are mode (0640), owner, group and allow_empty (true or false)"

func (c *Control) set(key string, v *yaml.Node) (err error) {
	switch key {
	case "mode":
		c.Mode, err = mode(v)
	case "owner":
		c.UID, err = account(v, "owner", "user", func(name string) (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		}, func(id string) error { _, err := user.LookupId(id); return err })
	case "group":
		c.GID, err = account(v, "group", "group", func(name string) (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		}, func(id string) error { _, err := user.LookupGroupId(id); return err })
	case "allow_empty":
		words := []string{"yes", "on", "true", "no", "off", "false"}
		i := slices.Index(words, strings.ToLower(v.Value))
		if i < 0 || !plain(v) {
			return fmt.Errorf("allow_empty %q is neither true nor false", v.Value)
		}
		c.NoEmpty = i >= 3
	case "set": // a method in the original, accepted and without effect
	default:
		return fmt.Errorf("no such key: %q", key)
	}
	return err
}

func plain(v *yaml.Node) bool { return v.Kind == yaml.ScalarNode && v.Style == 0 }

func mode(v *yaml.Node) (fs.FileMode, error) {
	n, err := strconv.ParseInt(v.Value, 0, 64)
	if err != nil || !plain(v) {
		return 0, fmt.Errorf("mode %q is no number; write it as 0640, without quotes", v.Value)
	}
	if n < 0 || n > 0o777 {
		return 0, fmt.Errorf("mode %s is %#o, beyond 0777; an octal number begins with 0", v.Value, n)
	}
	return fs.FileMode(n), nil
}

// account finds the number of a user or group, given by name or, without
// quotes, by number.
func account(v *yaml.Node, key, what string, byName func(string) (string, error), byID func(string) error) (int, error) {
	if v.Kind != yaml.ScalarNode || v.Tag != "!!str" && v.Tag != "!!int" {
		return -1, fmt.Errorf("%s must be a name or a number", key)
	}
	id := v.Value
	var err error
	if v.Tag == "!!int" {
		err = byID(id)
	} else {
		id, err = byName(id)
	}
	if err != nil {
		return -1, fmt.Errorf("%s %q: no such %s on this system", key, v.Value, what)
	}
	n, err := strconv.Atoi(id)
	return n, errors.Join(err)
}
