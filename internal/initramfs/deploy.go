package initramfs

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"goldsmith/internal/tree"
)

// DeployRequired are loaded by every deploy ramdisk: DHCP's sockets, and what
// deploy steps make of disks.
var DeployRequired = []string{"af_packet", "raid1"}

// DeployDrivers are taken along by a deploy ramdisk beside those for disks:
// network cards of virtual machines, of clouds and of servers.
var DeployDrivers = []string{
	"virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve", "e1000", "8139cp", "8139too", "ne2k_pci",
	"e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "tg3", "bnx2", "bnx2x", "bnxt_en", "be2net", "mlx4_en", "mlx5_core",
	"qede", "sfc", "cxgb4", "enic", "atlantic", "r8169", "ionic",
}

// DeploySteps is where a deploy ramdisk has its steps.
const DeploySteps = "usr/lib/goldsmith/deploy.d"

// Deploy says what goes into a deploy ramdisk.
type Deploy struct {
	Init     []byte            // the static program that becomes /init
	Root     *tree.Tree        // modules, firmware and programs come from here
	Kernel   string            // kernel version, a directory below usr/lib/modules
	Drivers  []string          // modules for disks; nil means Drivers
	Programs []string          // names of programs in Root; what they need comes with them
	Steps    map[string][]byte // deploy steps by their names, such as 20-raid1
	Time     time.Time         // modification time of everything
}

// BuildDeploy writes a deploy ramdisk's archive to w, uncompressed (see
// [Compress]), and returns the plan it carries.
func BuildDeploy(w io.Writer, c Deploy) (*Plan, error) {
	if len(c.Init) == 0 {
		return nil, fmt.Errorf("deploy ramdisk: no program for /init")
	}
	if c.Drivers == nil {
		c.Drivers = Drivers
	}
	plan, files, err := selectModules(c.Root, c.Kernel, DeployRequired, slices.Concat(c.Drivers, DeployDrivers))
	if err != nil {
		return nil, fmt.Errorf("deploy ramdisk: %w", err)
	}
	t := tree.New()
	t.AddFile("init", 0o755, c.Init)
	t.AddFile(ConfigPath, 0o644, plan.Marshal())
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp"} {
		t.Add(&tree.Entry{Path: dir, Mode: tree.ModeDir | 0o755})
	}
	p := &programs{from: c.Root, to: t}
	for name, data := range files {
		t.AddFile(plan.path(name), 0o644, data)
		p.firmware(data)
	}
	for _, name := range c.Programs {
		if err := p.add(name); err != nil {
			return nil, fmt.Errorf("deploy ramdisk: program %s: %w", name, err)
		}
	}
	for name, data := range c.Steps {
		t.AddFile(path.Join(DeploySteps, name), 0o755, data)
		if err := p.needs(data); err != nil {
			return nil, fmt.Errorf("deploy ramdisk: step %s: %w", name, err)
		}
	}
	return plan, Archive(w, t, c.Time)
}

// firmwareMark is before a file's name in a module's section .modinfo.
var firmwareMark = []byte("\x00firmware=")

// firmware takes the files along that a module says it loads, as far as the
// image has them.
func (p *programs) firmware(module []byte) {
	for {
		i := bytes.Index(module, firmwareMark)
		if i < 0 {
			return
		}
		module = module[i+len(firmwareMark):]
		name, _, _ := bytes.Cut(module, []byte{0})
		for _, ending := range []string{"", ".zst", ".xz"} {
			// What is not there is not in the package that the image has.
			_ = p.take(path.Join("usr/lib/firmware", string(name)+ending))
		}
	}
}
