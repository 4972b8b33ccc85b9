package blockdevice

import (
	"slices"
	"strings"

	"goldsmith/internal/command"
)

// sort puts the nodes in an order of creation: those that need nothing, then
// those that become possible, generation by generation. That is the
// original's order.
func (b *builder) sort() error {
	after := map[string][]string{} // a node → those that need it
	missing := map[string]int{}
	edge := func(from, to string, line int) error {
		for _, end := range []string{from, to} {
			if b.byName[end] == nil {
				return b.bad(line, "%q is not defined, but %s", end, need(end, from, to))
			}
		}
		if !slices.Contains(after[from], to) {
			after[from] = append(after[from], to)
			missing[to]++
		}
		return nil
	}
	for _, n := range b.nodes {
		for _, f := range n.from {
			if err := edge(f, n.name, n.line); err != nil {
				return err
			}
		}
		for _, t := range n.to {
			if err := edge(n.name, t, n.line); err != nil {
				return err
			}
		}
	}
	for _, n := range b.nodes {
		if missing[n.name] == 0 {
			b.plan.nodes = append(b.plan.nodes, n)
		}
	}
	for i := 0; i < len(b.plan.nodes); i++ {
		for _, next := range after[b.plan.nodes[i].name] {
			if missing[next]--; missing[next] == 0 {
				b.plan.nodes = append(b.plan.nodes, b.byName[next])
			}
		}
	}
	for _, n := range b.nodes {
		if missing[n.name] > 0 {
			return b.bad(n.line, "%s %s: stands on itself, by way of others", n.plugin, n.name)
		}
	}
	return nil
}

func need(end, from, to string) string {
	if end == from {
		return to + " needs it"
	}
	return "needs " + from
}

// check looks at what nodes stand on.
func (b *builder) check() error {
	if n := b.byName[outputImage]; n == nil || n.plugin != "local_loop" {
		return command.BadInput(b.bad(0, "no local_loop is called %s", outputImage), "it is the one that becomes the output")
	}
	for _, n := range b.plan.nodes {
		if err := b.checkNode(n); err != nil {
			return err
		}
	}
	for _, t := range b.tables {
		if err := b.checkTable(t); err != nil {
			return err
		}
	}
	if err := b.checkVolumes(); err != nil {
		return err
	}
	return b.checkRoot()
}

func (b *builder) checkNode(n *node) error {
	switch it := n.it.(type) {
	case *filesystem:
		return b.use(it.base, n)
	case *volumes:
		for _, p := range it.pvs {
			if err := b.use(p.base, b.byName[p.name]); err != nil {
				return err
			}
		}
	case *mount:
		fs, ok := b.byName[it.base].it.(*filesystem)
		if !ok {
			return b.bad(n.line, "mount %s: base %q is no file system", n.name, it.base)
		}
		it.fs = fs
	case *fstab:
		if _, ok := b.byName[it.mount].it.(*mount); !ok {
			b.warn(n.line, "fstab %s: base %q is no mount, so there is no line", n.name, it.mount)
			return nil
		}
		b.plan.fstabs[it.mount] = it
	}
	return nil
}

// use notes that n is put on a device.
func (b *builder) use(device string, n *node) error {
	d := b.byName[device]
	_, isVolume := d.it.(*volume)
	if !isVolume && d.plugin != "local_loop" && d.plugin != "partition" {
		return b.bad(n.line, "%s %s: base %q has no device", n.plugin, n.name, device)
	}
	return b.exclusive(device, n.plugin+" "+n.name, n.line)
}

func (b *builder) exclusive(device, who string, line int) error {
	if other := b.usedBy[device]; other != "" {
		return b.bad(line, "%s: base %q is used by %s already", who, device, other)
	}
	b.usedBy[device] = who
	return nil
}

func (b *builder) checkTable(t *table) error {
	if b.byName[t.disk] == nil {
		return b.bad(t.line, "partitioning: base %q is not defined", t.disk)
	}
	if len(t.partitions) == 0 {
		return nil // nothing is made
	}
	disk, ok := b.byName[t.disk].it.(*loop)
	if !ok {
		return b.bad(t.line, "partitioning: base %q is no local_loop", t.disk)
	}
	if err := b.exclusive(t.disk, "partitioning", t.line); err != nil {
		return err
	}
	if disk.size == 0 {
		return nil
	}
	if _, err := t.layout(disk.size, disk.sector); err != nil {
		return b.bad(t.line, "%s of %d bytes: %s", t.disk, disk.size, err)
	}
	return nil
}

// checkVolumes checks that volumes of a given size fit into their group.
func (b *builder) checkVolumes() error {
	sizes := b.deviceSizes()
	for _, n := range b.nodes {
		v, ok := n.it.(*volumes)
		if !ok {
			continue
		}
		for _, g := range v.vgs {
			room, known := v.room(g, sizes)
			for _, l := range v.lvs {
				if l.group == g.name && l.kind != "thin" {
					room -= l.bytes
				}
			}
			if known && room < 0 {
				return b.bad(b.byName[g.name].line, "vg %s: its volumes are %d bytes larger than it", g.name, -room)
			}
		}
	}
	return nil
}

// room is how many bytes of whole extents a group has. It is known when the
// sizes of all its devices are, and no option changes how lvm lays it out.
func (v *volumes) room(g group, sizes map[string]int64) (room int64, known bool) {
	plain := func(options []string) bool {
		return !slices.ContainsFunc(options, func(o string) bool { return !strings.HasPrefix("--force", o) })
	}
	known = plain(g.options)
	for _, p := range v.pvs {
		if slices.Contains(g.pvs, p.name) {
			room += max(sizes[p.base]-mib, 0) / extent * extent
			known = known && plain(p.options) && sizes[p.base] > 0
		}
	}
	return room, known
}

// deviceSizes are the sizes of disks and partitions, where they are known.
func (b *builder) deviceSizes() map[string]int64 {
	sizes := map[string]int64{}
	for _, n := range b.nodes {
		if l, ok := n.it.(*loop); ok {
			sizes[n.name] = l.size
		}
	}
	for _, t := range b.tables {
		disk, ok := b.byName[t.disk].it.(*loop)
		if !ok || disk.size == 0 {
			continue
		}
		slots, _ := t.layout(disk.size, disk.sector) // checked before
		for _, s := range slots {
			sizes[s.name] = s.length * int64(disk.sector)
		}
	}
	return sizes
}

// checkRoot finds the root, whose label the bootloader needs.
func (b *builder) checkRoot() error {
	for _, e := range b.entries {
		if e.plugin != "mount" {
			continue
		}
		m := b.byName[e.values["name"].Text].it.(*mount)
		if m.fs.kind != swapType {
			b.plan.points = append(b.plan.points, m.point)
		}
		if m.point == "/" {
			b.plan.root = m.fs
		}
	}
	if b.plan.root == nil || b.plan.root.kind == swapType {
		return b.bad(0, "no file system is mounted at /")
	}
	for _, e := range b.entries {
		if e.plugin == "mkfs" && e.values["name"].Text == b.plan.root.name && e.get("label") == nil &&
			b.plan.root.name != "mkfs_root" {
			return command.Hint(b.bad(e.line, "mkfs %s: needs a label, since it is mounted at /", b.plan.root.name),
				"give it one, or call it mkfs_root")
		}
	}
	return nil
}
