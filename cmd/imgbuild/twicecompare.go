package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/imagediff"
	"goldsmith/internal/sparse"
)

// comparison says how two builds of one definition differ.
type comparison struct {
	Same      bool     `json:"same"`
	Outputs   int      `json:"outputs"`
	Files     int      `json:"files"` // compared: outputs and what lies beside them
	Varied    []string `json:"varied"`
	NotVaried []string `json:"not_varied,omitempty"`
	// Packages differ where the mirror, not the build, made another image.
	Packages []imagediff.PackageChange `json:"packages,omitempty"`
	// First is the first file of the image that differs, in path order.
	First  *imagediff.FileChange `json:"first,omitempty"`
	Differ []difference          `json:"differ,omitempty"`
}

// difference is a file of the builds that is not the same.
type difference struct {
	Path      string `json:"path"`                // in the first build's directory
	Missing   bool   `json:"missing,omitempty"`   // only the second build wrote it
	Offset    int64  `json:"offset"`              // of the first byte that differs
	Partition string `json:"partition,omitempty"` // of a raw disk, in which it lies
	// First is the first file in it that differs, where one could be found.
	First *imagediff.FileChange `json:"first,omitempty"`
}

// ofThisBuild are endings of files that say how a build went.
var ofThisBuild = []string{".build.log", ".report.html"}

// compare compares what the second build wrote with what the first did. Of two
// builds, file lists are compared, which every format is made of; images are
// read only where those are the same.
func (c *comparison) compare(ctx context.Context, a, b string, first *imagebuild.Result) error {
	err := filepath.WalkDir(b, func(p string, d fs.DirEntry, err error) error {
		diary := func(ending string) bool { return strings.HasSuffix(p, ending) }
		if err != nil || d.IsDir() || slices.ContainsFunc(ofThisBuild, diary) {
			return err
		}
		c.Files++
		return c.file(ctx, filepath.Join(a, strings.TrimPrefix(p, b)), p)
	})
	if err != nil {
		return err
	}
	if c.Same = len(c.Differ) == 0; c.Same {
		return nil
	}
	if err := c.packages(first.Manifest, filepath.Join(b, filepath.Base(first.Manifest))); err != nil {
		return err
	}
	list := filesOf(first)
	x, err := readFiles(list)
	if err != nil {
		return err
	}
	y, err := readFiles(filepath.Join(b, filepath.Base(list)))
	if err != nil {
		return err
	}
	if c.First = imagediff.First(x, y); c.First != nil {
		return nil
	}
	return c.inside(ctx, b, first)
}

// packages compares the builds' manifests.
func (c *comparison) packages(a, b string) error {
	x, err := imagebuild.ReadManifest(a)
	if err != nil {
		return err
	}
	y, err := imagebuild.ReadManifest(b)
	if err != nil {
		return err
	}
	c.Packages = imagediff.Packages(x.Packages, y.Packages)
	return nil
}

// file compares one file byte by byte.
func (c *comparison) file(ctx context.Context, a, b string) error {
	at, err := differAt(ctx, a, b)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c.Differ = append(c.Differ, difference{Path: a, Missing: true})
		return nil
	case err != nil || at < 0:
		return err
	}
	c.Differ = append(c.Differ, difference{Path: a, Offset: at, Partition: partitionAt(a, at)})
	return nil
}

// inside looks into the outputs that differ, for what file lists do not say:
// times. Formats that cannot be read are passed over.
func (c *comparison) inside(ctx context.Context, b string, first *imagebuild.Result) error {
	for i := range c.Differ {
		d := &c.Differ[i]
		isOutput := slices.ContainsFunc(first.Outputs, func(o imagebuild.Output) bool { return o.Path == d.Path })
		if !isOutput || d.Missing {
			continue
		}
		x, err := readImage(ctx, d.Path)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		y, err := readImage(ctx, filepath.Join(b, filepath.Base(d.Path)))
		if err != nil {
			return err
		}
		d.First = imagediff.FirstOrTime(x, y)
		if c.First == nil {
			c.First = d.First
		}
	}
	return nil
}

func readImage(ctx context.Context, path string) (*imagediff.Image, error) {
	s, err := imagediff.Find(path)
	if err != nil {
		return nil, err
	}
	return imagediff.Read(ctx, s)
}

// partitionAt names the partition of a raw disk that has the byte; empty where
// the file is none, or the byte is in no partition.
func partitionAt(file string, at int64) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return ""
	}
	t, err := gpt.Read(f, fi.Size(), 512)
	if err != nil {
		return ""
	}
	for _, p := range t.Partitions {
		if at >= p.Start && at < p.Start+p.Size {
			return fmt.Sprintf("%d %s", p.Number, p.Name)
		}
	}
	return ""
}

// differAt returns the offset of the first byte in which two files differ, -1
// where they are the same. A file that ends first differs there.
func differAt(ctx context.Context, a, b string) (int64, error) {
	var readers [2]io.Reader
	for i, p := range []string{a, b} {
		f, err := os.Open(p)
		if err != nil {
			return 0, err
		}
		defer f.Close()
		if readers[i], err = sparse.NewReader(f); err != nil {
			return 0, err
		}
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); ; {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		n, errA := io.ReadFull(readers[0], x)
		m, errB := io.ReadFull(readers[1], y)
		if !bytes.Equal(x[:n], y[:m]) {
			i := 0
			for i < min(n, m) && x[i] == y[i] {
				i++
			}
			return at + int64(i), nil
		}
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return 0, err
			}
		}
		if errA != nil {
			return -1, nil
		}
		at += int64(n)
	}
}

// report says the comparison in words; where the builds differ, as an error.
func (c *comparison) report(p *command.Progress) error {
	if c.Same {
		p.Info("the same bytes twice: %d outputs and %d files beside them, varied: %s",
			c.Outputs, c.Files-c.Outputs, strings.Join(c.Varied, ", "))
		return nil
	}
	if n := len(c.Packages); n > 0 {
		x := c.Packages[0]
		err := fmt.Errorf("the second build has other packages: %s %s, and %d more", x.Name, arrow(x.A, x.B), n-1)
		return command.Hint(err,
			"the mirror moved on: 'imgbuild lock' pins packages, or build with --refresh")
	}
	for _, d := range c.Differ {
		p.Info("differs: %s", d.words())
	}
	if c.First == nil {
		return command.Hint(errors.New("the second build has other bytes, in no file of the image"),
			"docs/debugging.md says how to go on")
	}
	return command.Hint(fmt.Errorf("the second build is another image, which differs first in %s", changeWords(c.First)),
		"docs/debugging.md says what makes builds differ; --keep DIRECTORY keeps the second one for 'imgbuild diff'")
}

func (d *difference) words() string {
	switch {
	case d.Missing:
		return d.Path + ": only the second build wrote it"
	case d.First != nil:
		return d.Path + ": " + changeWords(d.First)
	case d.Partition != "":
		return fmt.Sprintf("%s: byte %d, in partition %s", d.Path, d.Offset, d.Partition)
	}
	return fmt.Sprintf("%s: byte %d", d.Path, d.Offset)
}

// changeWords names a file and what differs about it.
func changeWords(c *imagediff.FileChange) string {
	what := strings.Join(c.What, ", ")
	switch c.Change {
	case "added":
		what = "only in the second build"
	case "removed":
		what = "only in the first build"
	}
	return fmt.Sprintf("%s (%s)", plain(c.Path), what)
}
