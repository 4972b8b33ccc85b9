package main

import (
	"context"
	"flag"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

func buildCommand() *command.Command {
	var out, elements, cache string
	var refresh, locked, offline, asJSON bool
	var hookTimeout time.Duration
	var second twiceFlags
	return &command.Command{
		Name:  "build",
		Args:  "DEFINITION.yaml",
		Short: "build an image from its definition",
		Long: `
Resolves the definition's elements, runs their hooks phase by phase, and writes
NAME.raw (or the outputs that the definition names), NAME.manifest.json and
NAME.build.log. What a hook did is kept: it runs again only when it, or
something it depends on, changed ('imgbuild plan' tells). Where imgbuild.lock
beside the definition has the image, what it pins is fetched ('imgbuild lock').

Outputs appear when they are complete. The same definition, elements and
packages give the same bytes.

With --twice, the image is built once more from nothing, with a cache of its
own, and all outputs are compared: where they differ, the first file that does
is named, and the exit status is 1. With --vary, the second build has other
paths, environment, time zone, language, umask, number of processors, order of
directories, user and, where libfaketime is installed, time.

Elements are searched in --elements-path, then in the environment's
ELEMENTS_PATH, then among goldsmith's own.`,
		Example: `imgbuild build ci/demo/image.yaml -o out
imgbuild build --twice --vary ci/demo/image.yaml -o out`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&out, "o", ".", "write the outputs into `directory`")
			fs.StringVar(&elements, "elements-path", "", "search elements in these `directories`, colon-separated, first")
			fs.StringVar(&cache, "cache", "", "keep what steps did in `directory` (default ~/.cache/goldsmith)")
			fs.DurationVar(&hookTimeout, "hook-timeout", 0, "end a hook that runs longer than `time`, such as 30m (default: never)")
			fs.BoolVar(&refresh, "refresh", false, "run everything anew, with the packages that the mirror has now (with --offline: that the cache has)")
			fs.BoolVar(&locked, "locked", false, "fail unless imgbuild.lock pins everything")
			fs.BoolVar(&offline, "offline", false, "use what is in the cache, and no network")
			fs.BoolVar(&second.on, "twice", false, "build once more from nothing, and compare every output")
			fs.BoolVar(&second.vary, "vary", false, "with --twice: the second build differs in what an image must not depend on")
			fs.StringVar(&second.keep, "keep", "", "with --twice: keep what the second build wrote in `directory`")
			fs.BoolVar(&asJSON, "json", false, "print events and the result as JSON, one object a line")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("build needs one image definition", "imgbuild build ci/demo/image.yaml -o out")
			}
			if err := second.check(out); err != nil {
				return err
			}
			p := command.NewProgress("imgbuild", io, asJSON)
			defer p.Close()
			var more []rootfs.Namespace
			if offline {
				more = append(more, rootfs.WithoutNetwork)
			}
			if err := rootfs.Isolate(more...); err != nil {
				p.Error(err)
				return err
			}
			opts := imagebuild.Options{
				Out: out, Cache: cache, Refresh: refresh, Locked: locked, Offline: offline, HookTimeout: hookTimeout,
				Faketime: takeFaketime(), Progress: p,
			}
			res, err := build(ctx, args[0], elements, opts)
			if err == nil && second.on {
				err = second.run(ctx, &secondBuild{definition: args[0], elements: elements, opts: opts, first: res})
			}
			if err != nil {
				p.Error(err)
				return err
			}
			if second.on { // which has said so
				return nil
			}
			for _, o := range res.Outputs {
				p.Info("built %s sha256:%s", o.Path, o.SHA256)
			}
			p.Result(res)
			return nil
		},
	}
}

func build(ctx context.Context, definition, elements string, given imagebuild.Options) (*imagebuild.Result, error) {
	def, o, err := buildOptions(definition, elements)
	if err != nil {
		return nil, err
	}
	given.Bin, given.Elements, given.Lock = o.Bin, o.Elements, lockPath(definition)
	return imagebuild.Build(ctx, def, given)
}

// buildOptions reads a definition, and finds elements and our own programs.
func buildOptions(definition, elements string) (def *imagebuild.Definition, o imagebuild.Options, err error) {
	if o.Bin, err = command.Self(); err != nil {
		return nil, o, err
	}
	if o.Elements, err = element.SearchPath(elements, o.Bin); err != nil {
		return nil, o, err
	}
	def, err = imagebuild.LoadDefinition(definition)
	return def, o, err
}
