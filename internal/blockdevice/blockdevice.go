// Package blockdevice reads diskimage-builder's block-device configuration,
// plans what it asks for, and carries the plan out: disks, partition tables,
// LVM, file systems, mounts and the text of /etc/fstab.
//
// A configuration is a list of entries, each of one plugin: local_loop,
// partitioning, lvm, mkfs, mount, fstab. Entries name what they stand on
// (graph notation) or are nested in it (tree notation); Parse turns both into
// one flat list. Plan makes the graph of nodes from it, puts them in an order
// in which they can be created, and finds everything that is wrong with them
// before a disk is touched. Create does the work, as root, on block devices
// that somebody else provides, and Umount ends it.
//
// What the original takes at random (disk ids, GUIDs, UUIDs) is derived from a
// seed here. Format: docs/source/user_guide/building_an_image.rst of
// diskimage-builder, "Disk Image Layout".
package blockdevice

import (
	"fmt"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// Config is a configuration as a flat list of entries. It is not changed by
// planning, so that one can be planned twice: before a build, and when the
// size of the disk is known.
type Config struct {
	name    string // of the file, for messages
	entries []*entry
}

// entry is one use of a plugin, or one item of a list inside it.
type entry struct {
	plugin     string
	line       int // 0 when it is not from a file
	keys       []string
	values     map[string]*yaml11.Node
	partitions []*entry // of partitioning
}

// plugins are the names that an entry may have.
var plugins = []string{"local_loop", "partitioning", "lvm", "mkfs", "mount", "fstab"}

func isPlugin(name string) bool { return slices.Contains(plugins, name) }

// defaultName is what Default is called in messages.
const defaultName = "default block device"

// Default is the configuration of an image for which nobody gave one: a file
// system on the bare disk, mounted at /.
func Default() *Config {
	c, err := Parse(defaultName, []byte(`
- local_loop:
    name: image0
    mkfs:
      name: mkfs_root
      mount:
        mount_point: /
        fstab:
          options: defaults
          fsck-passno: 1
`))
	if err != nil {
		panic(err) // the text above is wrong
	}
	return c
}

// Parse reads a configuration. Errors are bad input that begins with the
// file's name and line.
func Parse(name string, content []byte) (*Config, error) {
	root, err := yaml11.Parse(name, content)
	if err != nil {
		return nil, err
	}
	c := &Config{name: name}
	if root.Kind != yaml11.List {
		return nil, c.bad(root.Line, "a block device configuration is a list, not %s", root.Kind)
	}
	for _, n := range root.Items {
		if n.Kind != yaml11.Mapping || len(n.Pairs) != 1 {
			return nil, c.bad(n.Line, "an entry is a mapping with one key, the plugin")
		}
		p := n.Pairs[0]
		if p.Key.Kind != yaml11.Text || !isPlugin(p.Key.Text) {
			return nil, command.Hint(c.bad(n.Line, "plugin %q is not known", p.Key), pluginHint)
		}
		if err := c.flatten(p, nil, 0); err != nil {
			return nil, err
		}
	}
	return c, nil
}

const pluginHint = "plugins are local_loop, partitioning, lvm, mkfs, mount and fstab"

// maxDepth bounds how deep entries nest, maxEntries how many there are:
// aliases can make much of a small file.
const (
	maxDepth   = 32
	maxEntries = 4096
)

// flatten appends the entries nested in p, then p itself, which is the
// original's order. parent is the name of the entry around it, nil at the top.
func (c *Config) flatten(p yaml11.Pair, parent *yaml11.Node, depth int) error {
	plugin, v := p.Key.Text, p.Value
	if v.Kind != yaml11.Mapping {
		return c.bad(p.Key.Line, "%s: want a mapping, not %s", plugin, v.Kind)
	}
	if depth > maxDepth || len(c.entries) > maxEntries {
		return c.bad(p.Key.Line, "too many entries, or nested too deeply")
	}
	e := &entry{plugin: plugin, line: p.Key.Line, values: map[string]*yaml11.Node{}}
	if b := v.Get("base"); b != nil {
		e.set("base", b)
	} else if parent != nil {
		e.set("base", parent)
	}
	if n := v.Get("name"); n != nil {
		e.set("name", n)
	} else if b := e.values["base"]; b != nil && b.Kind < yaml11.List {
		e.set("name", text(plugin+"_"+b.String(), e.line))
	} else {
		return c.bad(e.line, "%s: needs a name", plugin)
	}
	for _, kv := range v.Pairs {
		if err := c.value(e, kv, depth); err != nil {
			return err
		}
	}
	c.entries = append(c.entries, e)
	return nil
}

// value takes one key of an entry: another plugin below it, its partitions,
// or a value of its own.
func (c *Config) value(e *entry, kv yaml11.Pair, depth int) error {
	switch key := kv.Key.String(); {
	case key == "partitions":
		return c.flattenPartitions(e, kv.Value, depth)
	case isPlugin(key):
		return c.flatten(kv, e.values["name"], depth+1)
	default:
		e.set(key, kv.Value)
		return nil
	}
}

// flattenPartitions takes the list of partitions. What is nested in one
// becomes an entry, the rest stays with the partition.
func (c *Config) flattenPartitions(e *entry, list *yaml11.Node, depth int) error {
	if list.Kind != yaml11.List {
		return c.bad(list.Line, "partitions: want a list, not %s", list.Kind)
	}
	base := e.values["base"]
	e.partitions = []*entry{}
	for _, n := range list.Items {
		if n.Kind != yaml11.Mapping {
			return c.bad(n.Line, "a partition is a mapping, not %s", n.Kind)
		}
		part := &entry{plugin: "partition", line: n.Line, values: map[string]*yaml11.Node{}}
		for _, kv := range n.Pairs {
			key := kv.Key.String()
			if !isPlugin(key) {
				part.set(key, kv.Value)
				continue
			}
			name := n.Get("name")
			if name == nil {
				return c.bad(n.Line, "a partition needs a name")
			}
			if err := c.flatten(kv, name, depth+1); err != nil {
				return err
			}
		}
		if base == nil {
			return c.bad(e.line, "%s: needs a base", e.plugin)
		}
		part.set("base", base)
		e.partitions = append(e.partitions, part)
	}
	return nil
}

func (e *entry) set(key string, v *yaml11.Node) {
	if _, ok := e.values[key]; !ok {
		e.keys = append(e.keys, key)
	}
	e.values[key] = v
}

// at is the line of a key's value, or that of the entry where the file does
// not have it.
func (e *entry) at(key string) int {
	if v := e.values[key]; v != nil && v.Line > 0 {
		return v.Line
	}
	return e.line
}

func text(s string, line int) *yaml11.Node {
	return &yaml11.Node{Kind: yaml11.Text, Text: s, Line: line}
}

// bad is an error in the configuration; line 0 means the whole of it.
func (c *Config) bad(line int, format string, args ...any) error {
	place := c.name
	if line > 0 {
		place = fmt.Sprintf("%s:%d", c.name, line)
	}
	return command.BadInput(fmt.Errorf("%s: %s", place, fmt.Sprintf(format, args...)), "")
}
