package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"strings"

	"goldsmith/internal/tree"
)

// programs copies programs from one tree to another, with all that they are
// linked with (ELF, System V ABI) and their interpreters. What a program loads
// by itself when it runs, dlopen(3), is not seen.
type programs struct {
	from, to *tree.Tree
}

// programDirs are where programs lie, libraryDirs where the dynamic loader of
// x86-64 looks (ld.so(8), Debian's and others' places).
var (
	programDirs = []string{"usr/sbin", "usr/bin", "sbin", "bin", "usr/local/sbin", "usr/local/bin"}
	libraryDirs = []string{"usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64", "usr/lib", "lib",
		"usr/local/lib"}
)

// add takes a program by its name.
func (p *programs) add(name string) error {
	if name == "" || strings.Contains(name, "/") {
		return fmt.Errorf("%q: want a program's name", name)
	}
	return p.search(name, programDirs)
}

var errNotThere = errors.New("not in the image")

// search takes the file of that name from the first directory that has it.
func (p *programs) search(name string, dirs []string) error {
	for _, dir := range dirs {
		if err := p.take(path.Join(dir, name)); !errors.Is(err, errNotThere) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", name, errNotThere)
}

// maxLinks bounds how many symbolic links lead to a file.
const maxLinks = 40

// take copies a file, the links on the way to it, and what it needs.
func (p *programs) take(name string) error {
	done, left := ".", strings.Split(tree.Clean(name), "/")
	for links := 0; len(left) > 0; {
		here := path.Join(done, left[0])
		e := p.from.Lookup(here)
		switch {
		case e == nil:
			return fmt.Errorf("%s: %w", here, errNotThere)
		case e.Kind() == tree.ModeSymlink:
			if links++; links > maxLinks {
				return fmt.Errorf("%s: too many links", name)
			}
			p.to.AddParents(here)
			p.to.Add(&tree.Entry{Path: here, Mode: tree.ModeSymlink | 0o777, Target: e.Target})
			to := e.Target
			if !path.IsAbs(to) {
				to = "/" + path.Join(done, to)
			}
			done, left = ".", append(strings.Split(tree.Clean(to), "/"), left[1:]...)
		case len(left) > 1:
			done, left = here, left[1:]
		default:
			return p.file(here, e)
		}
	}
	return nil
}

// file copies a regular file and what it needs; nothing when it is there.
func (p *programs) file(name string, e *tree.Entry) error {
	if p.to.Lookup(name) != nil {
		return nil
	}
	if e.LinkTo != "" {
		e = p.from.Lookup(e.LinkTo)
	}
	data, err := e.ReadFile()
	if err != nil {
		return err
	}
	p.to.AddParents(name)
	p.to.AddFile(name, e.Mode&0o777, data) // no one but root is there to be kept from anything
	if err := p.needs(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// needs takes what a program's content says it needs: its interpreter and its
// libraries.
func (p *programs) needs(data []byte) error {
	if rest, ok := bytes.CutPrefix(data, []byte("#!")); ok {
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		words := strings.Fields(string(line))
		if len(words) == 0 {
			return errors.New("the first line names no interpreter")
		}
		if path.Base(words[0]) == "env" && len(words) > 1 {
			if err := p.add(words[1]); err != nil {
				return err
			}
		}
		return p.take(words[0])
	}
	if !bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	for _, s := range f.Progs {
		if s.Type == elf.PT_INTERP && s.Filesz < 4096 {
			b := make([]byte, s.Filesz)
			if _, err := s.ReadAt(b, 0); err != nil {
				return err
			}
			if err := p.take(strings.TrimRight(string(b), "\x00")); err != nil {
				return err
			}
		}
	}
	dirs := append(p.runPath(f), libraryDirs...)
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, l := range libraries {
		if err := p.search(l, dirs); err != nil {
			return fmt.Errorf("library %w", err)
		}
	}
	return nil
}

// runPath are the directories of libraries that a program names itself. Those
// relative to its own place are left out.
func (p *programs) runPath(f *elf.File) (dirs []string) {
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		list, _ := f.DynString(tag)
		for _, l := range list {
			for d := range strings.SplitSeq(l, ":") {
				if path.IsAbs(d) {
					dirs = append(dirs, tree.Clean(d))
				}
			}
		}
	}
	return dirs
}
