package blockdevice

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

	params Params
	nodes  []*node
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

// node is one step of a plan.
type node struct {
	name, plugin string
	line         int
	from, to     []string // names of the nodes it comes after, and before
	it           any      // *loop, *partition, *volumes, *filesystem, *mount, *fstab; nil where there is nothing to do
}

// Plan checks everything that can be checked without a disk.
func (c *Config) Plan(p Params) (*Plan, error) { return &Plan{params: p}, nil }

// RootLabel is the label of the file system that is mounted at /.
func (p *Plan) RootLabel() string { return "" }

// RootFSType is the type of the file system that is mounted at /.
func (p *Plan) RootFSType() string { return "" }

// BootLabel is the label of the file system that is mounted at /boot, or "".
func (p *Plan) BootLabel() string { return "" }

// MountPoints are the places where file systems are mounted, in the order of
// the configuration, as DIB_MOUNTPOINTS has them.
func (p *Plan) MountPoints() []string { return nil }

// Images are the disks that Create needs, in the order of creation.
func (p *Plan) Images() []Image { return nil }

// Fstab is the text of /etc/fstab, in the order of mounting.
func (p *Plan) Fstab() []byte { return nil }

// Programs are the programs that Create runs, sorted.
func (p *Plan) Programs() []string { return nil }

// Modules are the kernel modules that the plan's file systems and volumes
// need, sorted. A kernel may have one of them built in.
func (p *Plan) Modules() []string { return nil }

// Order is the nodes in the order of their creation.
func (p *Plan) Order() []Node { return nil }
