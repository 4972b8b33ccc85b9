package main

import (
	"context"
	"fmt"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/step"
)

func checkCommand() *command.Command {
	return &command.Command{
		Name:    "check",
		Args:    "PIPELINE.yaml",
		Short:   "check a pipeline file without running it",
		Long:    `Reads a pipeline file and every stage's parameters; errors name the file and the line.`,
		Example: `imgpipe check ci/demo/pipeline.yaml`,
		Run: func(_ context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("check needs one pipeline file", "imgpipe check ci/demo/pipeline.yaml")
			}
			p, err := pipeline.Load(args[0], step.Names())
			if err != nil {
				return err
			}
			if _, err := steps(args[0], p, nil); err != nil {
				return err
			}
			fmt.Fprintf(io.Stdout, "%s: stages: %d, channels: %d\n", args[0], len(p.Stages), len(p.Channels))
			return nil
		},
	}
}
