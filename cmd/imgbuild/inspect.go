package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"strings"
	"text/tabwriter"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
)

func inspectCommand() *command.Command {
	var asJSON, packages bool
	return &command.Command{
		Name:  "inspect",
		Args:  "IMAGE.raw",
		Short: "show what is in an image",
		Long: `
Shows an image's partitions, file systems and sizes, the elements it was built
from and its packages. The image is only read; nothing is mounted.`,
		Example: `imgbuild inspect out/demo.raw
imgbuild inspect --json out/demo.raw | jq '.packages[].name'`,
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&asJSON, "json", false, "print the report as JSON")
			fs.BoolVar(&packages, "packages", false, "list every package, not only their number")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("inspect needs one image", "imgbuild inspect out/demo.raw")
			}
			r, err := disk.Inspect(args[0])
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(io.Stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			return printReport(io, r, packages)
		},
	}
}

// printReport says a report in words.
func printReport(io command.IO, r *disk.Report, packages bool) error {
	w := tabwriter.NewWriter(io.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "image\t%s, %s, %s of it data\n", r.Path, size(r.Size), size(r.Data))
	var m struct {
		Name, Version, Arch, Release string
		Elements                     []string
	}
	if len(r.Manifest) > 0 && json.Unmarshal(r.Manifest, &m) == nil {
		fmt.Fprintf(w, "name\t%s %s (%s, %s)\n", m.Name, m.Version, m.Release, m.Arch)
		fmt.Fprintf(w, "elements\t%s\n", strings.Join(m.Elements, " "))
	}
	if os := r.OS["PRETTY_NAME"]; os != "" {
		fmt.Fprintf(w, "system\t%s\n", os)
	}
	fmt.Fprintf(w, "packages\t%d\n", len(r.Packages))
	if len(r.Partitions) > 0 {
		fmt.Fprintf(w, "\npartition\tname\tfile system\tsize\tused\tGUID\n")
	}
	for _, p := range r.Partitions {
		fs := p.Filesystem
		if fs == "" {
			fs = "empty"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\n", p.Number, p.Name, fs, size(p.Size), size(p.Used), p.GUID)
	}
	if packages {
		fmt.Fprintf(w, "\npackage\tversion\n")
		for _, p := range r.Packages {
			fmt.Fprintf(w, "%s\t%s\n", p.Name, p.Version)
		}
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	return w.Flush()
}

// size says a number of bytes in binary units.
func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
