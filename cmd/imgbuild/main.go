// Imgbuild builds golden images from elements, and looks at what it built.
package main

import (
	"os"

	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
)

// version is set when the program is linked.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	rootfs.Init()
	if len(os.Args) > 1 && os.Args[1] == "build" && os.Geteuid() == 0 {
		if err := rootfs.Isolate(); err != nil {
			command.Print(os.Stderr, "imgbuild", command.Missing(err, "a build needs root and the right to make namespaces"))
			return command.StatusMissing
		}
	}
	return program().Main(os.Args[1:])
}

func program() *command.Program {
	return &command.Program{
		Name:    "imgbuild",
		Version: version,
		Short:   "build golden images from elements",
		Long: "An image is built from a definition (docs/formats.md) that names elements: directories of hooks,\n" +
			"package lists and files (docs/elements.md). Software is installed when the image is built;\n" +
			"configuration is written when a machine boots.",
		Commands: []*command.Command{buildCommand(), elementsCommand(), inspectCommand(), runCommand(), pushCommand(), pullCommand()},
	}
}
