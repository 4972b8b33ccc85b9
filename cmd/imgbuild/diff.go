package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"goldsmith/internal/command"
	"goldsmith/internal/imagediff"
)

func diffCommand() *command.Command {
	var o struct{ json, all, status bool }
	return &command.Command{
		Name:  "diff",
		Args:  "A B",
		Short: "show how two images differ",
		Long: `
Shows how image B differs from image A: packages, files, systemd units, files
with privileges (set-uid, set-gid, capabilities), kernel, its command line and
configuration, elements, sizes. Files that no changed package explains come
first, as somebody has to.

An image is a raw, qcow2 or VMDK disk, an EROFS file system, an archive, a container
image (oci:DIRECTORY:TAG, oci-archive:FILE), a directory, or the
NAME.manifest.json of a build, which stands for one of its outputs. Packed
disks and archives are unpacked on the way. Two formats of one build differ
only in the kernel, which a disk has on its EFI partition and not in /boot.
Images are only read; nothing is mounted.`,
		Example: `imgbuild diff old/demo.manifest.json out/demo.manifest.json
imgbuild diff --json a.raw b.qcow2 | jq -r '.packages[].name'
imgbuild diff --exit-code oci:.goldsmith/oci:production oci:.goldsmith/oci:candidate`,
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&o.json, "json", false, "print everything as JSON")
			fs.BoolVar(&o.all, "all", false, "print whole lists, not only their beginning")
			fs.BoolVar(&o.status, "exit-code", false, "exit with status 1 when the images differ")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 2 {
				return command.Usage("diff needs two images", "imgbuild diff old.raw new.raw")
			}
			d, err := compareImages(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			if o.json {
				enc := json.NewEncoder(io.Stdout)
				enc.SetIndent("", "  ")
				err = enc.Encode(d)
			} else {
				err = newDiffPrinter(io.Stdout, o.all).print(d)
			}
			if err == nil && o.status && !d.Same {
				err = errors.New("the images differ")
			}
			return err
		},
	}
}

func compareImages(ctx context.Context, nameA, nameB string) (*imagediff.Diff, error) {
	a, err := imagediff.Find(nameA)
	if err != nil {
		return nil, err
	}
	b, err := imagediff.Find(nameB)
	if err != nil {
		return nil, err
	}
	same, err := imagediff.Same(ctx, a, b)
	if err != nil {
		return nil, err
	}
	if same {
		return imagediff.Identical(a, b), nil
	}
	x, err := imagediff.Read(ctx, a)
	if err != nil {
		return nil, err
	}
	y, err := imagediff.Read(ctx, b)
	if err != nil {
		return nil, err
	}
	return imagediff.Compare(x, y), nil
}

// listed is how many lines of a list are shown without --all.
const listed = 12

// diffPrinter says a difference in words.
type diffPrinter struct {
	w   *tabwriter.Writer
	all bool
}

func newDiffPrinter(w io.Writer, all bool) *diffPrinter {
	return &diffPrinter{tabwriter.NewWriter(w, 0, 0, 2, ' ', 0), all}
}

func (p *diffPrinter) print(d *imagediff.Diff) error {
	if d.SameByte {
		fmt.Fprintf(p.w, "%s and %s are the same, byte for byte\n", plain(d.A.Path), plain(d.B.Path))
		return p.w.Flush()
	}
	for _, s := range []struct {
		name string
		side imagediff.Side
	}{{"a", d.A}, {"b", d.B}} {
		fmt.Fprintf(p.w, "%s\t%s: %s, %s, %d files, %d packages\n",
			s.name, plain(s.side.Path), s.side.Format, size(s.side.Content), s.side.Files, s.side.Packages)
	}
	if d.Same {
		fmt.Fprintf(p.w, "\nno differences in what they hold\n")
	} else {
		p.summary(d)
		p.details(d)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(p.w, "note\t%s\n", plain(n))
	}
	return p.w.Flush()
}

func (p *diffPrinter) summary(d *imagediff.Diff) {
	fmt.Fprintln(p.w)
	for _, f := range d.Fields {
		if f.Name == "partitions" || f.Name == "kernel command line" {
			fmt.Fprintf(p.w, "%s\t%s\n\t%s\n", f.Name, plain(cmp.Or(f.A, "none")), plain(cmp.Or(f.B, "none")))
			continue
		}
		fmt.Fprintf(p.w, "%s\t%s\n", f.Name, arrow(f.A, f.B))
	}
	var elements []string
	for _, e := range d.Elements.Added {
		elements = append(elements, "+"+plain(e))
	}
	for _, e := range d.Elements.Removed {
		elements = append(elements, "-"+plain(e))
	}
	p.row("elements", strings.Join(elements, " "))
	p.row("packages", count(d.Packages, func(c imagediff.PackageChange) []string { return []string{c.Change} }))
	files := count(d.Files, func(c imagediff.FileChange) []string { return []string{c.Change} })
	if n := explained(d.Files); n > 0 {
		files += fmt.Sprintf("; %d of them by packages that changed", n)
	}
	p.row("files", files)
	p.row("units", count(d.Units, func(c imagediff.UnitChange) []string { return c.Change }))
	if n := len(d.Powers); n > 0 {
		p.row("privileged files", fmt.Sprintf("%d differ", n))
	}
	if n := len(d.Kernel); n > 0 {
		p.row("kernel options", fmt.Sprintf("%d differ", n))
	}
	if d.A.Content != d.B.Content {
		p.row("content", sizes(d.A.Content, d.B.Content))
	}
}

func (p *diffPrinter) row(name, text string) {
	if text != "" {
		fmt.Fprintf(p.w, "%s\t%s\n", name, text)
	}
}

// changes are the words for what happened, in the order in which they are said.
var changes = []string{
	"added", "removed", "upgraded", "downgraded", "changed", "enabled", "disabled", "masked", "unmasked",
}

// count says how many of a list there are of each kind.
func count[T any](list []T, kinds func(T) []string) string {
	n := map[string]int{}
	for _, x := range list {
		for _, k := range kinds(x) {
			n[k]++
		}
	}
	var out []string
	for _, k := range changes {
		if n[k] > 0 {
			out = append(out, fmt.Sprintf("%d %s", n[k], k))
		}
	}
	return strings.Join(out, ", ")
}

func explained(files []imagediff.FileChange) int {
	n := 0
	for _, f := range files {
		if f.Explained {
			n++
		}
	}
	return n
}

func (p *diffPrinter) details(d *imagediff.Diff) {
	list(p, "packages", d.Packages, func(c imagediff.PackageChange) string {
		return fmt.Sprintf("%s %s\t%s", signs[c.Change], plain(c.Name), arrow(c.A, c.B))
	})
	list(p, "units", d.Units, func(c imagediff.UnitChange) string {
		return plain(c.Name) + "\t" + strings.Join(c.Change, ", ")
	})
	list(p, "privileged files", d.Powers, func(c imagediff.PowerChange) string {
		if c.A == c.B {
			return fmt.Sprintf("%s\t%s, another content", plain(c.Path), c.A)
		}
		return fmt.Sprintf("%s\t%s", plain(c.Path), arrow(cmp.Or(c.A, "none"), cmp.Or(c.B, "none")))
	})
	var own, byPackage []imagediff.FileChange
	for _, f := range d.Files {
		if f.Explained {
			byPackage = append(byPackage, f)
		} else {
			own = append(own, f)
		}
	}
	list(p, "files", own, fileLine)
	if p.all {
		list(p, "files of packages that changed", byPackage, fileLine)
	}
	list(p, "kernel options", d.Kernel, func(f imagediff.Field) string { return plain(f.Name) + "\t" + arrow(f.A, f.B) })
	list(p, "sizes", d.Sizes, func(s imagediff.SizeChange) string { return plain(s.Path) + "\t" + sizes(s.A, s.B) })
}

// signs before names.
var signs = map[string]string{"added": "+", "removed": "-", "upgraded": "↑", "downgraded": "↓", "changed": "~"}

func fileLine(c imagediff.FileChange) string {
	line := signs[c.Change] + " " + plain(c.Path)
	var what []string
	for _, w := range c.What {
		switch w {
		case "mode":
			w = "mode " + c.A.Mode + " → " + c.B.Mode
		case "owner":
			w = fmt.Sprintf("owner %d:%d → %d:%d", c.A.UID, c.A.GID, c.B.UID, c.B.GID)
		case "target":
			w = "target " + arrow(c.A.Target, c.B.Target)
		case "type":
			w = c.A.Type + " → " + c.B.Type
		}
		what = append(what, w)
	}
	if what != nil {
		line += "\t" + strings.Join(what, ", ")
	}
	return line
}

// list prints the beginning of a list, or all of it.
func list[T any](p *diffPrinter, title string, items []T, line func(T) string) {
	if len(items) == 0 {
		return
	}
	_ = p.w.Flush() // each list has columns of its own
	fmt.Fprintf(p.w, "\n%s\n", title)
	for i, x := range items {
		if i == listed && !p.all {
			fmt.Fprintf(p.w, "  … and %d more (--all)\n", len(items)-i)
			break
		}
		fmt.Fprintf(p.w, "  %s\n", line(x))
	}
}

// arrow says what became of a value.
func arrow(a, b string) string {
	switch {
	case a == "":
		return plain(b)
	case b == "":
		return plain(a)
	}
	return plain(a) + " → " + plain(b)
}

func sizes(a, b int64) string {
	sign, delta := "+", b-a
	if delta < 0 {
		sign, delta = "-", -delta
	}
	return fmt.Sprintf("%s → %s (%s%s)", size(a), size(b), sign, size(delta))
}

// plain makes text of an image fit for a terminal.
func plain(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}
