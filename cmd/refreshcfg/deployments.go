package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"goldsmith/internal/applycfg"
	"goldsmith/internal/command"
	"goldsmith/internal/refreshcfg"
)

func deploymentsCommand() *command.Command {
	var list string
	return &command.Command{
		Name:  "deployments",
		Short: "run heat-config's hooks for deployments that are new",
		Long: "Each item of the metadata's \"deployments\" that was not deployed yet goes, as JSON, to the standard input of the\n" +
			"program that is called as its group in $HEAT_CONFIG_HOOKS, /usr/libexec/heat-config/hooks or\n" +
			"/var/lib/heat-config/hooks. What that prints is sent to the deployment's deploy_signal_id. A deployment that\n" +
			"fails is no error: Heat is told. What was deployed is remembered in $HEAT_CONFIG_DEPLOYED\n" +
			"(" + refreshcfg.DefaultDeployed + "): remove ID.json there to deploy again.",
		Example: "refreshcfg deployments",
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&list, "os-config-files", "", "JSON `file` that lists the metadata files; empty means "+applycfg.DefaultList)
		},
		Run: func(ctx context.Context, io command.IO, words []string) error {
			if len(words) > 0 {
				return command.Usage(fmt.Sprintf("unexpected argument %q", words[0]), "see 'refreshcfg deployments --help'")
			}
			// A hook may print a lot: rather collect garbage than take memory
			// from a small machine.
			debug.SetMemoryLimit(10 << 20)
			doc, err := applycfg.FromEnvironment(nil, list).LoadContext(ctx)
			if err != nil {
				return err
			}
			d := refreshcfg.Deployments{Deployed: os.Getenv("HEAT_CONFIG_DEPLOYED")}
			d.Say = func(format string, args ...any) {
				fmt.Fprintf(io.Stderr, "refreshcfg: %s\n", command.Line(fmt.Sprintf(format, args...)))
			}
			if dir := os.Getenv("HEAT_CONFIG_HOOKS"); dir != "" {
				d.Hooks = append([]string{dir}, refreshcfg.DefaultHeatHooks()...)
			}
			return d.Run(ctx, doc)
		},
	}
}
