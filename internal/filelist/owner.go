package filelist

import (
	"path"
	"slices"
	"strings"

	"goldsmith/internal/tree"
)

// What dpkg(1) keeps: a list of paths for each package, and the paths that
// were diverted, three lines each: path, new path, package that wanted it so.
const (
	infoDir        = "var/lib/dpkg/info"
	diversionsFile = "var/lib/dpkg/diversions"
)

// Owners tells which package a file is of, by Entry.Path. Directories have no
// owner, as most have many. Of packages that share a file, it is the first by
// name. A tree without dpkg's database has no owners.
//
// Packages name files by paths from before /usr was merged: symbolic links in
// the directories of a path are followed.
func Owners(t *tree.Tree) (map[string]string, error) {
	diverted, err := readDiversions(t)
	if err != nil {
		return nil, err
	}
	r := resolver{t: t, dirs: map[string]string{}}
	owners := map[string]string{}
	for _, e := range t.Below(infoDir) {
		name, ok := strings.CutSuffix(path.Base(e.Path), ".list")
		if !ok || e.Kind() != tree.ModeRegular {
			continue
		}
		name, _, _ = strings.Cut(name, ":") // NAME:ARCH
		text, err := e.ReadFile()
		if err != nil {
			return nil, err
		}
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			if line == "" || i+1 < len(lines) && strings.HasPrefix(lines[i+1], line+"/") {
				continue // a directory to the package, and maybe a link to one here
			}
			p := tree.Clean(line)
			if d, ok := diverted[p]; ok && d.by != name {
				p = d.to
			}
			p = r.resolve(p)
			if f := t.Lookup(p); f == nil || f.IsDir() {
				continue
			}
			if was, ok := owners[p]; !ok || name < was {
				owners[p] = name
			}
		}
	}
	return owners, nil
}

type diversion struct{ to, by string }

func readDiversions(t *tree.Tree) (map[string]diversion, error) {
	e := t.Lookup(diversionsFile)
	if e == nil || e.Kind() != tree.ModeRegular {
		return nil, nil
	}
	text, err := e.ReadFile()
	if err != nil {
		return nil, err
	}
	out := map[string]diversion{}
	for d := range slices.Chunk(strings.Split(string(text), "\n"), 3) {
		if len(d) == 3 {
			out[tree.Clean(d[0])] = diversion{to: tree.Clean(d[1]), by: d[2]}
		}
	}
	return out, nil
}

// maxLinks bounds the symbolic links that one directory's name may lead
// through, as the kernel does.
const maxLinks = 40

// resolver follows symbolic links in the directories of paths.
type resolver struct {
	t    *tree.Tree
	dirs map[string]string // results
}

func (r *resolver) resolve(p string) string {
	dir, base := path.Split(p)
	return path.Join(r.dir(path.Clean(dir), maxLinks), base)
}

// dir returns where a directory really is, or the path as far as it could be
// followed.
func (r *resolver) dir(p string, links int) string {
	if p == "." || links == 0 {
		return p
	}
	if to, ok := r.dirs[p]; ok {
		return to
	}
	parent, base := path.Split(p)
	to := path.Join(r.dir(path.Clean(parent), links), base)
	if e := r.t.Lookup(to); e != nil && e.Kind() == tree.ModeSymlink {
		target := e.Target
		if !path.IsAbs(target) {
			target = path.Join("/", path.Dir(to), target)
		}
		to = r.dir(tree.Clean(target), links-1)
	}
	r.dirs[p] = to
	return to
}
