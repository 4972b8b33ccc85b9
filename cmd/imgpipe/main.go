// Imgpipe drives an image from a commit to a promotion.
package main

import (
	"os"

	"goldsmith/internal/command"
	"goldsmith/testbed/libvirt"
)

// version is set when the program is linked.
var version = "dev"

func main() {
	libvirt.Init()
	os.Exit(program().Main(os.Args[1:]))
}

func program() *command.Program {
	return &command.Program{
		Name:    "imgpipe",
		Version: version,
		Short:   "build, test and promote golden images",
		Long: `A pipeline file names stages and channels (docs/pipeline.md). A run builds an image, tests it on
machines and promotes exactly the bytes that passed. Runs, images and evidence are kept in .goldsmith.`,
		Commands: []*command.Command{runCommand(), statusCommand(), logsCommand(), cancelCommand(), retryCommand(),
			historyCommand(), simulateCommand(), serveCommand(), workerCommand(), tokenCommand(), auditCommand(), backupCommand(), restoreCommand(), checkCommand(),
			channelsCommand(), promoteCommand(), approveCommand(), holdCommand(), releaseCommand(), freezeCommand(), thawCommand(),
			rollbackCommand(), evidenceCommand(), gcCommand(), nodeCommand(), powerCommand(), vbmcCommand()},
	}
}
