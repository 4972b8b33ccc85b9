package qemu

import (
	"fmt"
	"strconv"
	"strings"

	"goldsmith/testbed"
)

const program = "qemu-system-x86_64"

// hardware is what every machine of this package is: the same whether a
// person runs it or a test drives it.
type hardware struct {
	Accelerator     string
	CPUs, MemoryMiB int
}

func (h hardware) args() []string {
	accel, cpu := "tcg,thread=multi", "max"
	if h.Accelerator == testbed.KVM {
		accel, cpu = "kvm", "host"
	}
	return []string{program, "-nodefaults", "-no-user-config", "-display", "none",
		"-machine", "q35", "-accel", accel, "-cpu", cpu,
		"-smp", strconv.Itoa(h.CPUs), "-m", strconv.Itoa(h.MemoryMiB),
		"-device", "virtio-rng-pci"}
}

// firmwareArgs are those of UEFI; none without code, which is BIOS. options
// say what becomes of the variables.
func firmwareArgs(code, vars, options string) []string {
	if code == "" {
		return nil
	}
	return []string{
		"-drive", drive(code, "if=pflash,unit=0,format=raw,readonly=on"),
		"-drive", drive(vars, "if=pflash,unit=1,format=raw"+options),
	}
}

// drive is a -drive argument.
func drive(file, options string) string { return options + ",file=" + comma(file) }

// comma doubles the commas of a file's name, which otherwise end it.
func comma(file string) string { return strings.ReplaceAll(file, ",", ",,") }

// Files that QEMU finds open, in the order of process.files.
const (
	monitorFD = 3 + iota
	serialFD
	agentFD
)

// Names in a machine's directory.
const (
	consoleName = "console.log"
	varsName    = "vars.fd"
	logName     = "qemu.log" // what QEMU itself says
	lockName    = "lock"
)

// args is QEMU's command line for one start. It begins halted, so that no
// event is lost before we listen, and ends where a machine would be reset:
// what to start from is decided anew then.
func (m *Machine) args(first testbed.Device, sshPort int) []string {
	c := m.cfg
	args := append(hardware{c.Accelerator, c.CPUs, c.MemoryMiB}.args(),
		"-name", "guest="+c.Name, "-S", "-action", "reboot=shutdown",
		"-chardev", fmt.Sprintf("socket,id=monitor,fd=%d", monitorFD), "-mon", "chardev=monitor,mode=control",
		"-chardev", fmt.Sprintf("socket,id=serial,fd=%d,logappend=on,logfile=%s", serialFD, comma(m.file(consoleName))),
		"-serial", "chardev:serial",
		"-device", "virtio-serial-pci", "-chardev", fmt.Sprintf("socket,id=agent,fd=%d", agentFD),
		"-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
	args = append(args, firmwareArgs(m.code, m.file(varsName), "")...)
	index := c.bootOrder(first)
	for i, d := range c.Disks {
		args = append(args, d.args(i, m.diskFile(i), index["disk"+strconv.Itoa(i)])...)
	}
	for i, n := range c.NICs {
		args = append(args, n.args(i, sshPort, index["net"+strconv.Itoa(i)])...)
	}
	return args
}

// bootOrder numbers the devices that the machine may start from, first what
// it was told to: disks, CDs, networks otherwise.
func (c MachineConfig) bootOrder(first testbed.Device) map[string]int {
	kinds := map[testbed.Device][]string{}
	for i, d := range c.Disks {
		switch {
		case d.CD:
			kinds[testbed.FromCD] = append(kinds[testbed.FromCD], "disk"+strconv.Itoa(i))
		case !d.ReadOnly:
			kinds[testbed.FromDisk] = append(kinds[testbed.FromDisk], "disk"+strconv.Itoa(i))
		}
	}
	for i, n := range c.NICs {
		if n.Boot {
			kinds[testbed.FromNetwork] = append(kinds[testbed.FromNetwork], "net"+strconv.Itoa(i))
		}
	}
	index := map[string]int{}
	for _, kind := range []testbed.Device{first, testbed.FromDisk, testbed.FromCD, testbed.FromNetwork} {
		for _, id := range kinds[kind] {
			index[id] = len(index) + 1
		}
		delete(kinds, kind)
	}
	return index
}

// args are those of the i-th disk, whose contents are in file.
func (d Disk) args(i int, file string, bootIndex int) []string {
	options := fmt.Sprintf("if=none,id=disk%d,format=%s", i, d.format())
	device := fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)
	switch {
	case d.CD:
		options += ",media=cdrom,readonly=on"
		device = fmt.Sprintf("ide-cd,drive=disk%d", i)
	case d.ReadOnly:
		options += ",readonly=on"
	case d.File != "":
		options += ",discard=unmap"
	default:
		options += ",discard=unmap,cache=unsafe"
	}
	if d.Serial != "" {
		device += ",serial=" + d.Serial
	}
	return []string{"-drive", drive(file, options), "-device", device + bootArg(bootIndex)}
}

func bootArg(index int) string {
	if index == 0 {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", index)
}

// args are those of the i-th network card. sshPort leads to the machine's port
// 22; 0 lets QEMU choose.
func (n NIC) args(i, sshPort, bootIndex int) []string {
	net := fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, n.Tap)
	if n.Tap == "" {
		net = fmt.Sprintf("user,id=net%d", i)
		if !n.Uplink {
			net += ",restrict=on"
		}
		if n.TFTP != "" {
			net += ",tftp=" + comma(n.TFTP) + ",bootfile=" + comma(n.BootFile)
		}
		if n.SSH {
			net += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:22", sshPort)
		}
	}
	device := fmt.Sprintf("virtio-net-pci,netdev=net%d,mac=%s", i, n.MAC)
	if !n.Boot {
		device += ",romfile="
	}
	return []string{"-netdev", net, "-device", device + bootArg(bootIndex)}
}
