package bootstrap

import (
	"errors"
	"fmt"
	"strings"
	"sync"
)

// owners knows which package a path belongs to.
type owners struct {
	mu    sync.Mutex // guards the fields below
	files map[string]owner
	dirs  map[string]int // order of the package whose entry gave the directory its mode
	links map[string]*pkg
}

// errOrder says that packages that were unpacked at the same time have a link
// and a directory of the same path: what is there in the end depends on which
// comes first.
var errOrder = errors.New("a link and a directory have the same path")

type owner struct {
	p    *pkg
	path string // as the package has it
}

func newOwners() *owners {
	return &owners{files: map[string]owner{}, dirs: map[string]int{}, links: map[string]*pkg{}}
}

// merged is the path that a path has since / and /usr are one.
func merged(path string) string {
	for _, dir := range []string{"/bin/", "/sbin/", "/lib/", "/lib64/"} {
		if strings.HasPrefix(path, dir) {
			return "/usr" + path
		}
	}
	return path
}

// take claims a file for a package. It returns false when another's stays.
// Who loses a file to a package that replaces it is told by its field lost.
func (o *owners) take(p *pkg, path string, isLink bool) (mine bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := merged(path)
	if isLink {
		if other, taken := o.dirs[key]; taken && other >= 0 && other != p.order {
			return false, fmt.Errorf("%s: %w", path, errOrder)
		}
		o.links[key] = p
	}
	have, taken := o.files[key]
	q := have.p
	switch {
	case !taken || q == p:
	case p.mayReplace(q):
		q.lost = append(q.lost, have.path)
	case q.mayReplace(p):
		return false, nil
	default:
		return false, fmt.Errorf("%s is also in package %s, which does not say that it replaces it", path, q.Name)
	}
	o.files[key] = owner{p, path}
	return true, nil
}

// shape tells whether p decides the mode of a directory: the first package in
// the plan's order that has it does, of those that are unpacked together.
func (o *owners) shape(p *pkg, path string) (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := merged(path)
	if q := o.links[key]; q != nil && q != p {
		return false, fmt.Errorf("%s: %w", path, errOrder)
	}
	if first, known := o.dirs[key]; known && first <= p.order {
		return false, nil
	}
	o.dirs[key] = p.order
	return true, nil
}

// settle is called when nothing is being unpacked: what is there keeps its
// shape.
func (o *owners) settle() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for path := range o.dirs {
		o.dirs[path] = -1
	}
	clear(o.links)
}
