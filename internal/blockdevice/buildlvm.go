package blockdevice

import (
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/yaml11"
)

// extent is the size that logical volumes are whole multiples of, in bytes.
const extent = 4 * mib

func (b *builder) lvm(e *entry) error {
	v := &volumes{}
	var lvm []*node
	for _, part := range []struct {
		key, plugin string
		item        func(*entry, *volumes) (*node, error)
	}{{"pvs", "pv", b.physical}, {"vgs", "vg", b.group}, {"lvs", "lv", b.logical}} {
		items, err := b.items(e, part.key, part.plugin)
		if err != nil {
			return err
		}
		for _, i := range items {
			n, err := part.item(i, v)
			if err != nil {
				return err
			}
			lvm = append(lvm, n)
		}
	}
	n, err := b.add(e, v)
	if err != nil {
		return err
	}
	for i, p := range v.pvs {
		n.from = append(n.from, p.base)
		n.to = append(n.to, lvm[i].name)
	}
	return nil
}

// items reads one of an lvm's three lists.
func (b *builder) items(e *entry, key, plugin string) ([]*entry, error) {
	n := e.get(key)
	if n == nil || n.Kind != yaml11.List {
		return nil, b.bad(e.at(key), "lvm: needs %s, a list", key)
	}
	var out []*entry
	for _, i := range n.Items {
		if i.Kind != yaml11.Mapping {
			return nil, b.bad(i.Line, "lvm: %s: want mappings, not %s", key, i.Kind)
		}
		item := &entry{plugin: plugin, line: i.Line, values: map[string]*yaml11.Node{}}
		for _, kv := range i.Pairs {
			item.set(kv.Key.String(), kv.Value)
		}
		b.warnUnknown(item)
		out = append(out, item)
	}
	return out, nil
}

func (b *builder) physical(e *entry, v *volumes) (*node, error) {
	p := physical{}
	n, err := b.add(e, nil)
	if err != nil {
		return nil, err
	}
	p.name = n.name
	if p.base, err = b.need(e, "base"); err != nil {
		return nil, err
	}
	p.options, err = b.words(e, "options")
	v.pvs = append(v.pvs, p)
	return n, err
}

// lvmName is what lvm(8) takes for a group or a volume.
var lvmName = regexp.MustCompile(`^[a-zA-Z0-9+_.][a-zA-Z0-9+_.-]*$`)

func (b *builder) group(e *entry, v *volumes) (*node, error) {
	g := group{}
	var err error
	if g.pvs, err = b.words(e, "base"); err != nil {
		return nil, err
	}
	if len(g.pvs) == 0 {
		return nil, b.bad(e.at("base"), "vg: needs a base, the list of its pvs")
	}
	for _, p := range g.pvs {
		if !slices.ContainsFunc(v.pvs, func(o physical) bool { return o.name == p }) {
			return nil, b.bad(e.at("base"), "vg: base %q is none of the pvs", p)
		}
		if slices.ContainsFunc(v.vgs, func(o group) bool { return slices.Contains(o.pvs, p) }) {
			return nil, b.bad(e.at("base"), "vg: pv %q is in another vg already", p)
		}
	}
	n, err := b.add(e, nil, g.pvs...)
	if err != nil {
		return nil, err
	}
	if g.name = n.name; !lvmName.MatchString(g.name) {
		return nil, b.bad(e.at("name"), "vg: lvm does not take %q for a name", g.name)
	}
	g.options, err = b.words(e, "options")
	v.vgs = append(v.vgs, g)
	return n, err
}

func (b *builder) logical(e *entry, v *volumes) (*node, error) {
	l := &volume{}
	n, err := b.add(e, l)
	if err != nil {
		return nil, err
	}
	if l.name = n.name; !lvmName.MatchString(l.name) {
		return nil, b.bad(e.at("name"), "lv: lvm does not take %q for a name", l.name)
	}
	if l.group, err = b.need(e, "base"); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(v.vgs, func(g group) bool { return g.name == l.group }) {
		return nil, b.bad(e.at("base"), "lv %s: base %q is none of the vgs", l.name, l.group)
	}
	n.from = []string{l.group}
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	l.device = "/dev/mapper/" + double(l.group) + "-" + double(l.name)
	if l.options, err = b.words(e, "options"); err != nil {
		return nil, err
	}
	if err := b.logicalSize(e, l); err != nil {
		return nil, err
	}
	if err := b.thin(e, l, v); err != nil {
		return nil, err
	}
	if l.pool != "" {
		n.from = append(n.from, l.pool)
	}
	v.lvs = append(v.lvs, l)
	return n, nil
}

func (b *builder) logicalSize(e *entry, l *volume) error {
	if n := e.get("extents"); n != nil && n.Kind >= yaml11.List {
		return b.bad(n.Line, "lv %s: extents: want text, not %s", l.name, n.Kind)
	} else if n != nil {
		l.extents = n.String()
	}
	if e.get("size") == nil {
		if l.extents == "" {
			return b.bad(e.line, "lv %s: needs a size, or extents", l.name)
		}
		return nil
	}
	size, err := b.size(e, "size")
	if err != nil {
		return err
	}
	if l.bytes = size / extent * extent; l.bytes == 0 {
		return b.bad(e.at("size"), "lv %s: size is less than an extent of 4 MiB", l.name)
	}
	return nil
}

func (b *builder) thin(e *entry, l *volume, v *volumes) error {
	var err error
	if l.kind, err = b.str(e, "type"); err != nil {
		return err
	}
	if l.pool, err = b.str(e, "thin-pool"); err != nil {
		return err
	}
	isPool := func(o *volume) bool { return o.kind == "thin-pool" && o.group == l.group && o.name == l.pool }
	switch {
	case l.kind != "" && l.kind != "thin" && l.kind != "thin-pool":
		return b.bad(e.at("type"), "lv %s: type %q: want thin or thin-pool", l.name, l.kind)
	case l.kind == "thin" && l.bytes == 0:
		return b.bad(e.line, "lv %s: a thin volume needs a size", l.name)
	case l.kind == "thin" && l.pool == "":
		return b.bad(e.line, "lv %s: a thin volume needs thin-pool, the name of its pool", l.name)
	case l.kind != "thin" && l.pool != "":
		return b.bad(e.at("thin-pool"), "lv %s: thin-pool is for volumes of type thin", l.name)
	case l.kind == "thin" && !slices.ContainsFunc(v.lvs, isPool):
		return b.bad(e.at("thin-pool"), "lv %s: thin-pool %q is no pool of vg %s given before it",
			l.name, l.pool, l.group)
	}
	return nil
}
