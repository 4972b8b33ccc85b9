// Imgbuild builds golden images from elements, and looks at what it built.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
	"goldsmith/internal/vm"
)

// version is set when the program is linked.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	vm.Init()
	rootfs.Init()
	if os.Getenv("GOGC") == "" && os.Getenv("GOMEMLIMIT") == "" {
		// A build keeps most of what it reads to its end: collecting early found
		// little, and took a sixth of the time of one that changes a hook.
		debug.SetGCPercent(800)
		debug.SetMemoryLimit(1 << 30)
	}
	if original := originals[filepath.Base(os.Args[0])]; original != nil {
		return original(filepath.Base(os.Args[0]), os.Args[1:])
	}
	if len(os.Args) == 3 && os.Args[1] == imagebuild.InMachine {
		return inMachine(os.Args[2])
	}
	return program().Main(os.Args[1:])
}

// inMachine does a build's part in the virtual machine that has the disk. Its
// error is printed by the build outside.
func inMachine(job string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := imagebuild.RunInMachine(ctx, job); err != nil {
		if !vm.Inside() {
			command.Print(os.Stderr, "imgbuild", err)
		}
		return command.Status(err)
	}
	return command.StatusOK
}

func program() *command.Program {
	return &command.Program{
		Name:    "imgbuild",
		Version: version,
		Short:   "build golden images from elements",
		Long: "An image is built from a definition (docs/formats.md) that names elements: directories of hooks,\n" +
			"package lists and files (docs/elements.md). Software is installed when the image is built;\n" +
			"configuration is written when a machine boots.",
		Commands: []*command.Command{
			buildCommand(), planCommand(), lockCommand(), cacheCommand(), elementsCommand(), lintCommand(),
			inspectCommand(), runCommand(), extractCommand(), diffCommand(), pushCommand(), pullCommand(),
			keysCommand(), signCommand(), verifyCommand(), bootstrapCommand(),
		},
	}
}
