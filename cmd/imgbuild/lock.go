package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"path/filepath"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

func lockCommand() *command.Command {
	var elements, cache string
	var update, asJSON bool
	return &command.Command{
		Name:  "lock",
		Args:  "DEFINITION.yaml",
		Short: "pin what an image is made of",
		Long: `
Writes imgbuild.lock beside the definition: each package by version and
SHA-256, Git sources by commit, downloads by digest. Builds then take just
these, and 'imgbuild build --locked' refuses anything else. Commit the file.

An image that is not in the file is added as its last build has it, or as it
would be built now. With --update everything is pinned as the mirrors and
repositories have it now, and what moved is printed.`,
		Example: `imgbuild lock ci/demo/image.yaml
imgbuild lock --update ci/demo/image.yaml`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&elements, "elements-path", "", "search elements in these `directories`, colon-separated, first")
			fs.StringVar(&cache, "cache", "", "the cache is in `directory` (default ~/.cache/goldsmith)")
			fs.BoolVar(&update, "update", false, "pin everything anew")
			fs.BoolVar(&asJSON, "json", false, "print what moved as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("lock needs one image definition", "imgbuild lock ci/demo/image.yaml")
			}
			p := command.NewProgress("imgbuild", command.IO{Stdout: io.Stderr, Stderr: io.Stderr}, false)
			defer p.Close()
			if err := rootfs.Isolate(); err != nil {
				return err
			}
			def, opts, err := buildOptions(args[0], elements)
			if err != nil {
				return err
			}
			opts.Cache, opts.Refresh, opts.Progress, opts.Lock = cache, update, p, lockPath(args[0])
			moves, err := imagebuild.UpdateLock(ctx, def, opts)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(io.Stdout).Encode(append([]imagebuild.Move{}, moves...))
			}
			for _, m := range moves {
				fmt.Fprintln(io.Stdout, moveText(m))
			}
			_, err = fmt.Fprintf(io.Stdout, "%s: %d pins moved\n", opts.Lock, len(moves))
			return err
		},
	}
}

// lockPath is where the lock of a definition lies.
func lockPath(definition string) string {
	return filepath.Join(filepath.Dir(definition), imagebuild.LockName)
}

func moveText(m imagebuild.Move) string {
	switch {
	case m.From == "":
		return m.What + ": " + m.To
	case m.To == "":
		return m.What + ": gone, was " + m.From
	}
	return m.What + ": " + m.From + " → " + m.To
}
