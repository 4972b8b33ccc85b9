package main

import (
	"context"
	"flag"
	"fmt"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/imagediff"
	"goldsmith/internal/lint"
)

func lintCommand() *command.Command {
	var definition, allow string
	var asJSON bool
	return &command.Command{
		Name:  "lint",
		Args:  "IMAGE",
		Short: "find what writes where a machine keeps nothing",
		Long: `
Lists what is installed in an image and writes outside of the state that
machines keep: by tmpfiles.d, by units, by homes of users, by directories that
others than root may write to. Each line names package, path, where it is said,
and a remedy; with one the status is 1. State is what the definition says, what
files in /usr/share/goldsmith/state.d of the image declare, and what every
machine keeps (docs/boot.md). /etc can be written, and is the image's again at
the next start.

An image is what 'imgbuild diff' reads: a disk, an archive, a container image, a
directory. 'imgbuild elements lint' looks at elements instead.`,
		Example: `imgbuild lint --definition demo.yaml out/demo.raw
imgbuild lint --json out/demo.manifest.json | jq -r '.[].package'`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&definition, "definition", "", "take the state from this image definition's `file`")
			fs.StringVar(&allow, "allow", "", "do not mention these `paths`, colon-separated, and what is below them")
			fs.BoolVar(&asJSON, "json", false, "print the findings as JSON")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("lint needs one image",
					"imgbuild lint out/demo.raw; for elements: imgbuild elements lint")
			}
			found, err := lintImage(ctx, definition, strings.FieldsFunc(allow, func(r rune) bool { return r == ':' }), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				if err := printJSON(io, append([]lint.Write{}, found...)); err != nil {
					return err
				}
			} else {
				for _, w := range found {
					fmt.Fprintln(io.Stdout, w)
				}
			}
			if len(found) > 0 {
				return fmt.Errorf("lint: %d places that machines do not keep", len(found))
			}
			return nil
		},
	}
}

func lintImage(ctx context.Context, definition string, allow []string, name string) ([]lint.Write, error) {
	var configured, declared []string
	if definition != "" {
		def, err := imagebuild.LoadDefinition(definition)
		if err != nil {
			return nil, err
		}
		configured = def.State
	}
	source, err := imagediff.Find(name)
	if err != nil {
		return nil, err
	}
	image, err := imagediff.Read(ctx, source)
	if err != nil {
		return nil, err
	}
	for _, f := range image.Files {
		if strings.HasPrefix(f.Path, "/"+disk.StateDir+"/") && f.Type == "file" {
			more, err := disk.ParseDeclared(f.Path, image.Text(f.Path))
			if err != nil {
				return nil, err
			}
			declared = append(declared, more...)
		}
	}
	state := append(disk.Kept(configured, declared), allow...)
	return lint.Image{Files: image.Files, Text: image.Text, State: state}.Writes(), nil
}
