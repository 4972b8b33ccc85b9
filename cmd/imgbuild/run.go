package main

import (
	"context"
	"flag"

	"goldsmith/internal/command"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
)

func runCommand() *command.Command {
	var c qemu.Config
	var firmware string
	return &command.Command{
		Name:  "run",
		Args:  "IMAGE.raw",
		Short: "start an image in QEMU with its console on this terminal",
		Long: `
Starts a virtual machine from the image and connects its serial console to the
terminal: Ctrl-a x ends the machine, Ctrl-a h lists other keys. The image is
not changed; what the machine writes is dropped, unless --write is given.

The machine has no network unless --network or --ssh-port asks for one. KVM is
used where a guest really runs under it, emulation elsewhere.`,
		Example: `imgbuild run out/demo.raw
imgbuild run --ssh-port 2222 --seed seed.img out/demo.raw`,
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&c.Write, "write", false, "let the machine change the image")
			fs.StringVar(&c.Record, "record", "", "record every write of the machine in `file` (dm-log-writes); with --write")
			fs.StringVar(&c.Seed, "seed", "", "attach `file`, a NoCloud seed disk (label CIDATA)")
			fs.StringVar(&firmware, "firmware", string(testbed.UEFI), "start with `firmware`: uefi or bios")
			fs.IntVar(&c.CPUs, "cpus", 2, "give the machine `n` processors")
			fs.IntVar(&c.MemoryMiB, "memory", 1024, "give the machine `MiB` of memory")
			fs.IntVar(&c.SSHPort, "ssh-port", 0, "lead 127.0.0.1:`port` to the machine's port 22")
			fs.BoolVar(&c.Network, "network", false, "let the machine reach what this host reaches")
		},
		Run: func(ctx context.Context, _ command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("run needs one image", "imgbuild run out/demo.raw")
			}
			c.Image, c.Firmware = args[0], testbed.Firmware(firmware)
			if c.Firmware != testbed.UEFI && c.Firmware != testbed.BIOS {
				return command.Usage("firmware "+firmware+": unknown", "uefi or bios")
			}
			return qemu.Run(ctx, c)
		},
	}
}
