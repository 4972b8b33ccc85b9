package initramfs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"goldsmith/internal/tree"
)

// library is what depmod(8) and the kernel's build say about a kernel's
// modules.
type library struct {
	dir     string              // in the tree
	files   map[string]string   // module name to path below dir
	needs   map[string][]string // modules.dep
	soft    map[string][]string // modules.softdep, "pre" only
	aliases []Alias             // modules.alias
	builtin map[string]bool
}

// selectModules picks the required modules and drivers of a kernel, closed
// over their dependencies, and returns their uncompressed contents by name. A
// driver that the kernel does not have is left out.
func selectModules(t *tree.Tree, kernel string, required, drivers []string) (*Plan, map[string][]byte, error) {
	lib, err := readLibrary(t, kernel)
	if err != nil {
		return nil, nil, err
	}
	p := &Plan{Kernel: kernel, Modules: map[string]*Module{}}
	for _, name := range required {
		name = moduleName(name)
		switch {
		case lib.files[name] != "":
			p.Load = append(p.Load, name)
			lib.take(p, name)
		case !lib.builtin[name]:
			return nil, nil, fmt.Errorf("kernel %s has no module %s", kernel, name)
		}
	}
	for _, name := range drivers {
		lib.take(p, moduleName(name))
	}
	for _, a := range lib.aliases {
		// Patterns without a colon are names, for modprobe: no device has them.
		if p.Modules[a.Module] != nil && strings.ContainsRune(a.Pattern, ':') {
			p.Aliases = append(p.Aliases, a)
		}
	}
	files := map[string][]byte{}
	for name := range p.Modules {
		if files[name], err = lib.read(t, lib.files[name]); err != nil {
			return nil, nil, err
		}
	}
	return p, files, nil
}

// take adds a module and all that it needs to the plan.
func (l *library) take(p *Plan, name string) {
	if l.files[name] == "" || p.Modules[name] != nil {
		return
	}
	m := &Module{}
	p.Modules[name] = m
	for _, dep := range l.needs[name] {
		m.Needs = append(m.Needs, dep)
		l.take(p, dep)
	}
	for _, wish := range l.soft[name] {
		// A softdep names a module or an alias such as crypto-crc32c, which
		// several modules may have: all of them, best for the processor first.
		for _, dep := range l.resolve(wish) {
			if dep != name && !slices.Contains(m.Before, dep) {
				m.Before = append(m.Before, dep)
				l.take(p, dep)
			}
		}
	}
}

func (l *library) resolve(wish string) []string {
	if name := moduleName(wish); l.files[name] != "" {
		return []string{name}
	}
	var out []string
	for _, a := range l.aliases {
		if a.Pattern == wish && l.files[a.Module] != "" {
			out = append(out, a.Module)
		}
	}
	return out
}

func readLibrary(t *tree.Tree, kernel string) (*library, error) {
	if kernel == "" || strings.ContainsAny(kernel, "/\n ") {
		return nil, fmt.Errorf("kernel version %q", kernel)
	}
	l := &library{dir: "usr/lib/modules/" + kernel, files: map[string]string{},
		needs: map[string][]string{}, soft: map[string][]string{}, builtin: map[string]bool{}}
	if t.Lookup(l.dir+"/modules.dep") == nil {
		// A tree without merged /usr.
		if alt := "lib/modules/" + kernel; t.Lookup(alt+"/modules.dep") != nil {
			l.dir = alt
		} else {
			return nil, fmt.Errorf("%s/modules.dep: not in the image; was depmod run for this kernel?", l.dir)
		}
	}
	for _, f := range []struct {
		name string
		line func(string) error
	}{
		{"modules.dep", l.depLine}, {"modules.softdep", l.softLine},
		{"modules.alias", l.aliasLine}, {"modules.builtin", l.builtinLine},
	} {
		e := t.Lookup(l.dir + "/" + f.name)
		if e == nil {
			continue // only modules.dep is needed
		}
		data, err := e.ReadFile()
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(data)) {
			line = strings.TrimSpace(line)
			if line == "" || line[0] == '#' {
				continue
			}
			if err := f.line(line); err != nil {
				return nil, fmt.Errorf("%s: %w", e.Path, err)
			}
		}
	}
	return l, nil
}

func (l *library) depLine(line string) error {
	file, deps, ok := strings.Cut(line, ":")
	if !ok || tree.Clean(file) != file {
		return fmt.Errorf("line %q is malformed", line)
	}
	name := moduleName(path.Base(file))
	l.files[name] = file
	// depmod lists indirect dependencies too, the ones to load first last.
	for _, d := range slices.Backward(strings.Fields(deps)) {
		l.needs[name] = append(l.needs[name], moduleName(path.Base(d)))
	}
	return nil
}

func (l *library) softLine(line string) error {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "softdep" {
		return nil
	}
	pre := false
	for _, w := range words[2:] {
		switch {
		case strings.HasSuffix(w, ":"):
			pre = w == "pre:"
		case pre:
			name := moduleName(words[1])
			l.soft[name] = append(l.soft[name], w)
		}
	}
	return nil
}

func (l *library) aliasLine(line string) error {
	if w := strings.Fields(line); len(w) == 3 && w[0] == "alias" {
		l.aliases = append(l.aliases, Alias{w[1], moduleName(w[2])})
	}
	return nil
}

func (l *library) builtinLine(line string) error {
	l.builtin[moduleName(path.Base(line))] = true
	return nil
}

// moduleName turns a file name or a name with dashes into the kernel's name.
func moduleName(s string) string {
	if i := strings.Index(s, ".ko"); i > 0 {
		s = s[:i]
	}
	return strings.ReplaceAll(s, "-", "_")
}

// maxModule bounds what a compressed module may grow to, in bytes.
const maxModule = 64 << 20

// read returns a module's content, uncompressed: the archive is compressed as
// a whole, and not every kernel decompresses modules itself.
func (l *library) read(t *tree.Tree, file string) ([]byte, error) {
	e := t.Lookup(l.dir + "/" + file)
	if e == nil {
		return nil, fmt.Errorf("%s/%s: named by modules.dep but not there", l.dir, file)
	}
	data, err := e.ReadFile()
	if err == nil {
		data, err = decompress(path.Ext(file), data)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return data, nil
}

func decompress(ext string, data []byte) ([]byte, error) {
	var r io.Reader = bytes.NewReader(data)
	var err error
	switch ext {
	case ".ko":
		return data, nil
	case ".gz":
		r, err = gzip.NewReader(r)
	case ".xz":
		r, err = xz.NewReader(r)
	case ".zst":
		var z *zstd.Decoder
		if z, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule)); err == nil {
			defer z.Close()
			r = z
		}
	default:
		return nil, errors.New("unknown compression")
	}
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(out) > maxModule {
		err = fmt.Errorf("larger than %d MiB uncompressed", maxModule>>20)
	}
	return out, err
}

// Kernels lists the kernel versions that t has modules for, sorted as text.
func Kernels(t *tree.Tree) []string {
	found := map[string]bool{}
	for _, dir := range []string{"usr/lib/modules", "lib/modules"} {
		for _, e := range t.Below(dir) {
			if rest := strings.TrimPrefix(e.Path, dir+"/"); path.Base(rest) == "modules.dep" && path.Dir(rest) != "." {
				found[path.Dir(rest)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}
