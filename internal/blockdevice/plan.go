package blockdevice

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// Params are what a configuration does not say itself.
type Params struct {
	RootFSType string // of the node mkfs_root, unless it says otherwise; "" means ext4
	RootLabel  string // the same; "" means cloudimg-rootfs, or img-rootfs with xfs
	RootFSOpts string // the same: more options for its mkfs, separated by blanks
	Size       int64  // bytes of a local_loop without a size; 0 means not known yet
	BlockSize  int    // bytes of a logical block, over the configuration's; 0 means what that says, or 512
	Seed       string // what UUIDs, GUIDs and disk ids are made from
	Root       string // directory below which Create mounts
}

// Plan is a checked configuration: nodes, in the order of their creation.
type Plan struct {
	// Warnings say what has no effect, each with file and line.
	Warnings []string

	name   string // of the file
	params Params
	nodes  []*node // in the order of creation
	mounts []*mount
	fstabs map[string]*fstab // by the mount they are of
	root   *filesystem
	points []string // in the order of the configuration
}

// Node is one step of a plan, for messages and tests.
type Node struct {
	Name   string
	Plugin string   // local_loop, partition, pv, vg, lv, lvm, mkfs, mount or fstab
	After  []string // names of the nodes that it needs, sorted
}

// Image is one disk of a plan.
type Image struct {
	Name   string // image0 is the one that becomes the output
	Size   int64  // in bytes; 0 when it is not known yet
	Sector int    // bytes of a logical block
}

// outputImage is the node that becomes the output.
const outputImage = "image0"

// node is one step of a plan.
type node struct {
	name, plugin string
	line         int
	from, to     []string // names of the nodes it comes after, and before
	it           any      // *loop, *partition, *volumes, *volume, *filesystem, *mount, *fstab; nil: only a name
}

// loop is a disk.
type loop struct {
	size   int64 // 0 when it is not known
	sector int
}

// volumes is one use of the plugin lvm. Its node makes all of them; the nodes
// of physical volumes and groups are names to depend on.
type volumes struct {
	pvs []physical
	vgs []group
	lvs []*volume
}

type physical struct {
	name, base string
	options    []string
}

type group struct {
	name    string
	pvs     []string
	options []string
}

type volume struct {
	name, group string
	bytes       int64  // whole extents of 4 MiB; 0: extents says it
	extents     string // as lvcreate takes it
	kind, pool  string // thin or thin-pool, and the pool of a thin one; or ""
	options     []string
	device      string // as the device mapper names it
}

type filesystem struct {
	name, base  string
	line        int // of its type
	kind, label string
	uuid        string
	opts        []string
}

const swapType = "swap"

func (f *filesystem) isFAT() bool { return f.kind == "fat" || f.kind == "vfat" }

type mount struct {
	name, base string
	point      string
	fs         *filesystem
}

type fstab struct {
	mount                   string
	options, dumpFreq, pass string
}

// RootLabel is the label of the file system that is mounted at /.
func (p *Plan) RootLabel() string { return p.root.label }

// RootFSType is the type of the file system that is mounted at /.
func (p *Plan) RootFSType() string { return p.root.kind }

// BootLabel is the label of the file system that is mounted at /boot, or "".
func (p *Plan) BootLabel() string {
	for _, m := range p.mounts {
		if path.Clean(m.point) == "/boot" {
			return m.fs.label
		}
	}
	return ""
}

// MountPoints are the places where file systems are mounted, in the order of
// the configuration, as DIB_MOUNTPOINTS has them. Swap is not among them.
func (p *Plan) MountPoints() []string { return slices.Clone(p.points) }

// Images are the disks that Create needs, in the order of creation.
func (p *Plan) Images() []Image {
	var images []Image
	for _, n := range p.nodes {
		if l, ok := n.it.(*loop); ok {
			images = append(images, Image{n.name, l.size, l.sector})
		}
	}
	return images
}

// Fstab is the text of /etc/fstab, in the order of mounting. Mounts without an
// fstab entry have no line.
func (p *Plan) Fstab() []byte {
	var b strings.Builder
	for _, m := range p.mounts {
		f := p.fstabs[m.name]
		switch {
		case f == nil:
		case m.fs.kind == swapType:
			fmt.Fprintf(&b, "LABEL=%s none swap sw 0 0\n", fstabField(m.fs.label))
		default:
			fmt.Fprintf(&b, "LABEL=%s %s %s %s %s %s\n", fstabField(m.fs.label), fstabField(m.point),
				m.fs.kind, fstabField(f.options), f.dumpFreq, f.pass)
		}
	}
	return []byte(b.String())
}

// fstabField writes blanks in a field as fstab(5) wants them.
var fstabField = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace

// Programs are the programs that Create runs, sorted.
func (p *Plan) Programs() []string {
	set := map[string]bool{}
	for _, n := range p.nodes {
		switch it := n.it.(type) {
		case *filesystem:
			set[it.program()] = true
		case *volumes:
			set["lvm"] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Wants says where the configuration first asks for a program: "FILE:LINE", the
// name alone of [Default], or "" where it does not.
func (p *Plan) Wants(program string) string {
	for _, n := range p.nodes {
		line := n.line
		switch it := n.it.(type) {
		case *filesystem:
			if line = it.line; it.program() != program {
				continue
			}
		case *volumes:
			if program != "lvm" {
				continue
			}
		default:
			continue
		}
		if p.name == defaultName {
			return p.name
		}
		return fmt.Sprintf("%s:%d", p.name, line)
	}
	return ""
}

// Modules are the kernel modules that the plan's file systems and volumes
// need, sorted. A kernel may have one of them built in.
func (p *Plan) Modules() []string {
	set := map[string]bool{}
	for _, n := range p.nodes {
		switch it := n.it.(type) {
		case *filesystem:
			for _, m := range it.modules() {
				set[m] = true
			}
		case *volumes:
			set["dm-mod"] = true
			if slices.ContainsFunc(it.lvs, func(v *volume) bool { return v.kind != "" }) {
				set["dm-thin-pool"] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (f *filesystem) modules() []string {
	switch f.kind {
	case "ext2", "ext3":
		return []string{"ext4"} // which drives them all
	case "fat", "vfat", "msdos":
		return []string{"vfat", "nls_cp437", "nls_ascii"} // see fatOptions
	case swapType:
		return nil
	}
	return []string{f.kind}
}

// Order is the nodes in the order of their creation.
func (p *Plan) Order() []Node {
	after := map[string]map[string]bool{}
	for _, n := range p.nodes {
		after[n.name] = map[string]bool{}
	}
	for _, n := range p.nodes {
		for _, f := range n.from {
			after[n.name][f] = true
		}
		for _, t := range n.to {
			after[t][n.name] = true
		}
	}
	order := make([]Node, 0, len(p.nodes))
	for _, n := range p.nodes {
		order = append(order, Node{n.name, n.plugin, slices.Sorted(maps.Keys(after[n.name]))})
	}
	return order
}
