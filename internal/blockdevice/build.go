package blockdevice

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// builder makes a plan's nodes from the entries of a configuration.
type builder struct {
	*Config
	plan   *Plan
	nodes  []*node // in the order of the configuration
	byName map[string]*node
	mounts []*mount
	tables []*table
	labels map[string]bool
	usedBy map[string]string // device node → what stands on it
	images int
}

// maxImages bounds the disks: those of the machine that makes them end at
// /dev/vdz, and each takes one of its 32 places for a device.
const maxImages = 20

// Plan checks everything that can be checked without a disk, and how
// partitions fit where the size of their disk is known.
func (c *Config) Plan(p Params) (*Plan, error) {
	if p.BlockSize != 0 && !validSector(int64(p.BlockSize)) {
		return nil, command.BadInput(fmt.Errorf("block size %d: want 512, 1024, 2048 or 4096", p.BlockSize),
			"it comes from DIB_BLOCK_SIZE")
	}
	b := &builder{
		Config: c, plan: &Plan{name: c.name, params: p, fstabs: map[string]*fstab{}},
		byName: map[string]*node{}, labels: map[string]bool{}, usedBy: map[string]string{},
	}
	for _, e := range c.entries {
		if err := b.entry(e); err != nil {
			return nil, err
		}
	}
	b.chainMounts()
	if err := b.sort(); err != nil {
		return nil, err
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	b.plan.mounts = b.mounts
	return b.plan, nil
}

func validSector(n int64) bool { return n == 512 || n == 1024 || n == 2048 || n == 4096 }

// known are the keys that an entry may have; others have no effect.
var known = map[string][]string{
	"local_loop":   {"base", "name", "size", "directory", "block_size"},
	"partitioning": {"base", "name", "label", "align"},
	"partition":    {"base", "name", "size", "flags", "type"},
	"lvm":          {"base", "name", "pvs", "vgs", "lvs"},
	"pv":           {"base", "name", "options"},
	"vg":           {"base", "name", "options"},
	"lv":           {"base", "name", "size", "extents", "options", "type", "thin-pool"},
	"mkfs":         {"base", "name", "type", "label", "opts", "uuid"},
	"mount":        {"base", "name", "mount_point"},
	"fstab":        {"base", "name", "options", "dump-freq", "fsck-passno"},
}

func (b *builder) entry(e *entry) error {
	b.warnUnknown(e)
	if e.partitions != nil && e.plugin != "partitioning" {
		b.warn(e.line, "%s: partitions have no effect here", e.plugin)
	}
	switch e.plugin {
	case "local_loop":
		return b.loop(e)
	case "partitioning":
		return b.partitioning(e)
	case "lvm":
		return b.lvm(e)
	case "mkfs":
		return b.mkfs(e)
	case "mount":
		return b.mount(e)
	default:
		return b.fstab(e)
	}
}

func (b *builder) warnUnknown(e *entry) {
	for _, k := range e.keys {
		if !slices.Contains(known[e.plugin], k) {
			b.warn(e.values[k].Line, "%s: key %q is not known and has no effect", e.plugin, k)
		}
	}
}

func (b *builder) warn(line int, format string, args ...any) {
	b.plan.Warnings = append(b.plan.Warnings, fmt.Sprintf("%s:%d: ", b.name, line)+fmt.Sprintf(format, args...))
}

// shellActive are characters that must not be in a name: hooks have bash take the
// list of devices apart with eval.
var shellActive = regexp.MustCompile("[\x00-\x1f\x7f$`\"'\\\\;&|<>(){}\\[\\]*?!#]")

// add adds a node for an entry.
func (b *builder) add(e *entry, it any, from ...string) (*node, error) {
	name, err := b.word(e, "name")
	switch {
	case err != nil:
		return nil, err
	case name == "":
		return nil, b.bad(e.at("name"), "%s: needs a name", e.plugin)
	case shellActive.MatchString(name):
		return nil, b.bad(e.at("name"), "%s: name %q has characters that a shell would take apart", e.plugin, name)
	}
	if other := b.byName[name]; other != nil {
		return nil, b.bad(e.at("name"), "name %q is used more than once, first in line %d", name, other.line)
	}
	n := &node{name: name, plugin: e.plugin, line: e.line, from: from, it: it}
	b.nodes = append(b.nodes, n)
	b.byName[name] = n
	return n, nil
}

func (b *builder) loop(e *entry) error {
	l := &loop{size: b.plan.params.Size, sector: b.plan.params.BlockSize}
	var err error
	if e.get("size") != nil {
		if l.size, err = b.size(e, "size"); err != nil {
			return err
		}
		if l.size == 0 {
			return b.bad(e.at("size"), "local_loop: size is 0")
		}
	}
	if e.get("directory") != nil {
		b.warn(e.at("directory"), "local_loop: directory has no effect, images are made in the work directory")
	}
	if bs := e.get("block_size"); bs != nil {
		n, err := strconv.ParseInt(bs.String(), 10, 32)
		if err != nil || !validSector(n) {
			return b.bad(bs.Line, "local_loop: block_size %s: want 512, 1024, 2048 or 4096", bs)
		}
		l.sector = cmp.Or(l.sector, int(n))
	}
	l.sector = cmp.Or(l.sector, 512)
	if l.size%int64(l.sector) != 0 {
		return b.bad(e.at("size"), "local_loop: size %d is not a multiple of its block size, %d", l.size, l.sector)
	}
	n, err := b.add(e, l)
	if b.images++; err == nil && b.images > maxImages {
		return b.bad(e.line, "local_loop %s: more than %d images", n.name, maxImages)
	}
	if err == nil && strings.ContainsAny(n.name, "/") {
		return b.bad(e.at("name"), "local_loop: name %q becomes a file name and has a slash", n.name)
	}
	return err
}

func (b *builder) mount(e *entry) error {
	m := &mount{}
	var err error
	if m.base, err = b.need(e, "base"); err != nil {
		return err
	}
	if m.point, err = b.need(e, "mount_point"); err != nil {
		return err
	}
	n, err := b.add(e, m, m.base)
	if err != nil {
		return err
	}
	m.name = n.name
	if slices.Contains(strings.Split(m.point, "/"), "..") || strings.ContainsAny(m.point, "\x00\n") {
		return b.bad(e.at("mount_point"), "mount %s: %q is not a place in the image", m.name, m.point)
	}
	same := func(o *mount) bool { return path.Clean(o.point) == path.Clean(m.point) }
	if slices.ContainsFunc(b.mounts, same) {
		return b.bad(e.at("mount_point"), "mount %s: mount point %s is used more than once", m.name, m.point)
	}
	// A mount comes before the first one below it, else last: the original's
	// order, wherever that order can be mounted.
	below := func(o *mount) bool { return strings.HasPrefix(o.point, m.point) }
	i := slices.IndexFunc(b.mounts, below)
	if i < 0 {
		i = len(b.mounts)
	}
	b.mounts = slices.Insert(b.mounts, i, m)
	return nil
}

// chainMounts makes each mount depend on the one before it.
func (b *builder) chainMounts() {
	for i, m := range b.mounts[:max(len(b.mounts)-1, 0)] {
		next := b.byName[b.mounts[i+1].name]
		next.from = slices.Insert(next.from, 0, m.name)
	}
}

func (b *builder) fstab(e *entry) error {
	f := &fstab{}
	var err error
	if f.mount, err = b.need(e, "base"); err != nil {
		return err
	}
	for _, v := range []struct {
		to       *string
		key, def string
	}{{&f.options, "options", "defaults"}, {&f.dumpFreq, "dump-freq", "0"}, {&f.pass, "fsck-passno", "2"}} {
		n := e.get(v.key)
		if n != nil && n.Kind >= yaml11.List {
			return b.bad(n.Line, "fstab: %s: want text, not %s", v.key, n.Kind)
		}
		*v.to = v.def
		if n != nil {
			*v.to = n.String()
		}
	}
	_, err = b.add(e, f, f.mount)
	return err
}

// get is a key's value, nil when it is absent or null.
func (e *entry) get(key string) *yaml11.Node {
	if n := e.values[key]; n != nil && n.Kind != yaml11.Null {
		return n
	}
	return nil
}

// need is word for a key that must be there.
func (b *builder) need(e *entry, key string) (string, error) {
	s, err := b.word(e, key)
	if err == nil && s == "" {
		err = b.bad(e.at(key), "%s: needs a %s", e.plugin, key)
	}
	return s, err
}

// word is a name: text, or a number as it is written.
func (b *builder) word(e *entry, key string) (string, error) {
	n := e.get(key)
	switch {
	case n == nil:
		return "", nil
	case n.Kind == yaml11.Text || n.Kind == yaml11.Int:
		return n.Text, nil
	}
	return "", b.bad(n.Line, "%s: %s: want a name, not %s", e.plugin, key, n.Kind)
}

// str is text. What YAML takes for something else would not be what the file
// seems to say.
func (b *builder) str(e *entry, key string) (string, error) {
	n := e.get(key)
	if n == nil {
		return "", nil
	}
	if n.Kind != yaml11.Text {
		return "", command.Hint(b.bad(n.Line, "%s: %s: want text, not %s", e.plugin, key, n.Kind), "put it in quotes")
	}
	return n.Text, nil
}

// size is a size in bytes, as text or as a number.
func (b *builder) size(e *entry, key string) (int64, error) {
	s, err := b.sizeText(e, key)
	if err != nil {
		return 0, err
	}
	n, err := parseSize(s)
	if err != nil {
		return 0, command.Hint(b.bad(e.at(key), "%s: %s: %s", e.plugin, key, err), sizeHint)
	}
	return n, nil
}

const sizeHint = "a size is a number and TiB, GiB, MiB, KiB (1024), T, G, M, K (1000), or nothing for bytes"

func (b *builder) sizeText(e *entry, key string) (string, error) {
	n := e.get(key)
	if n.Kind != yaml11.Text && n.Kind != yaml11.Int {
		return "", b.bad(n.Line, "%s: %s: want a size, not %s", e.plugin, key, n.Kind)
	}
	return n.String(), nil
}

// words is a list of words, nil when the key is absent.
func (b *builder) words(e *entry, key string) ([]string, error) {
	n := e.get(key)
	if n == nil {
		return nil, nil
	}
	if n.Kind != yaml11.List {
		return nil, b.bad(n.Line, "%s: %s: want a list, not %s", e.plugin, key, n.Kind)
	}
	var out []string
	for _, i := range n.Items {
		if i.Kind >= yaml11.List || i.Kind == yaml11.Null {
			return nil, b.bad(i.Line, "%s: %s: want text, not %s", e.plugin, key, i.Kind)
		}
		out = append(out, i.String())
	}
	return out, nil
}

// guid derives an identifier from the seed: a UUID of version 8.
func (p *Plan) guid(what string) string {
	b := p.digest(what)
	b[6], b[8] = b[6]&0x0f|0x80, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func (p *Plan) digest(what string) [sha256.Size]byte {
	return sha256.Sum256([]byte(p.params.Seed + "\x00" + what))
}
