package imagediff

import (
	"slices"

	"goldsmith/internal/dpkg"
	"goldsmith/internal/filelist"
)

// Packages compares two lists of packages.
func Packages(a, b []dpkg.Package) []PackageChange { return packages(a, b) }

// First returns the first file that differs between two file lists, each in
// path order; nil where none does.
func First(a, b []filelist.File) *FileChange {
	if all := files(a, b, map[string]bool{}); len(all) > 0 {
		return &all[0]
	}
	return nil
}

// FirstOrTime returns the first file that differs between two images; where
// none does, the first whose time differs, with "time" in What. Nil means that
// what differs is in no file.
func FirstOrTime(a, b *Image) *FileChange {
	if c := First(a.Files, b.Files); c != nil {
		return c
	}
	i := slices.IndexFunc(a.Files, func(f filelist.File) bool { return !a.times[f.Path].Equal(b.times[f.Path]) })
	if i < 0 {
		return nil
	}
	return &FileChange{Path: a.Files[i].Path, Change: "changed", What: []string{"time"}, A: &a.Files[i], B: &b.Files[i]}
}
