package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"text/tabwriter"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/rootfs"
)

// cacheFlags are the flags of 'imgbuild cache'.
type cacheFlags struct {
	dir, keep string
	json      bool
}

func cacheCommand() *command.Command {
	var f cacheFlags
	return &command.Command{
		Name:  "cache",
		Args:  "[ls | prune --keep-size SIZE]",
		Short: "list and remove what builds keep",
		Long: `
ls lists the layers of steps, the last used first: when that was, their size,
the step and its element; of downloads and other results it shows the sum, with
--json each. prune removes what was not used for longest until the rest fits
--keep-size, and what builds left that were killed. What a build that runs now
uses stays: its layers, and all downloads. Without a word, the cache is listed.`,
		Example: `imgbuild cache ls
imgbuild cache prune --keep-size 10GiB`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&f.dir, "cache", "", "the cache is in `directory` (default ~/.cache/goldsmith)")
			fs.StringVar(&f.keep, "keep-size", "", "prune: keep at most `size`, such as 0, 500MiB or 10GiB")
			fs.BoolVar(&f.json, "json", false, "print the list as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			c, err := imagebuild.OpenCache(f.dir)
			if err != nil {
				return err
			}
			switch {
			case len(args) == 0 || len(args) == 1 && args[0] == "ls":
				if f.keep != "" {
					return command.Usage("ls takes no --keep-size", "imgbuild cache prune --keep-size "+f.keep)
				}
				list, err := c.List()
				if err != nil {
					return err
				}
				return f.print(io, list, "in the cache")
			case len(args) == 1 && args[0] == "prune":
				if f.keep == "" {
					return command.Usage("prune needs --keep-size", "imgbuild cache prune --keep-size 10GiB")
				}
				keep, err := imagebuild.ParseSize(f.keep)
				if err != nil {
					return command.Usage("--keep-size: "+err.Error(), "")
				}
				// An ordinary user's layers have files of subordinate ids.
				if err := rootfs.Isolate(); err != nil {
					return err
				}
				removed, err := c.Prune(ctx, keep)
				if err != nil {
					return err
				}
				return f.print(io, removed, "removed")
			}
			return command.Usage(fmt.Sprintf("cache does not know %q", args[0]), "ls or prune")
		},
	}
}

func (f *cacheFlags) print(io command.IO, list []imagebuild.Cached, what string) error {
	if f.json {
		e := json.NewEncoder(io.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(list)
	}
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	count, size := map[string]int{}, map[string]int64{}
	for _, l := range list {
		count[l.Kind]++
		size[l.Kind] += l.Size
		if l.Kind == imagebuild.KindLayer {
			fmt.Fprintf(w, "%s\t%s\t%.1f MiB\t%s\t%s\n", l.Key[:12], l.Used.Format(time.DateTime), mib(l.Size), l.Step, l.Element)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(io.Stdout, "%d layers of %.1f MiB, %d downloads of %.1f MiB, %d results of %.1f MiB %s\n",
		count[imagebuild.KindLayer], mib(size[imagebuild.KindLayer]), count[imagebuild.KindDownload], mib(size[imagebuild.KindDownload]),
		count[imagebuild.KindResult], mib(size[imagebuild.KindResult]), what)
	return err
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
