package initramfs

import (
	"goldsmith/internal/tree"
)

// LoadedModule is one kernel module, ready to be loaded.
type LoadedModule struct {
	Name string // with underscores
	Data []byte // uncompressed
}

// Modules returns the modules called names of a kernel in t, and all they
// need, in an order in which they can be loaded. Names that the kernel has
// built in are left out; those it does not have at all are returned as
// missing.
func Modules(t *tree.Tree, kernel string, names []string) (mods []LoadedModule, missing []string, err error) {
	lib, err := readLibrary(t, kernel)
	if err != nil {
		return nil, nil, err
	}
	plan := &Plan{Kernel: kernel, Modules: map[string]*Module{}}
	var wanted []string
	for _, n := range names {
		n = moduleName(n)
		switch {
		case lib.files[n] != "":
			lib.take(plan, n)
			wanted = append(wanted, n)
		case !lib.builtin[n]:
			missing = append(missing, n)
		}
	}
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		m := plan.Modules[name]
		if done[name] || m == nil {
			return nil
		}
		done[name] = true
		for _, list := range [][]string{m.Before, m.Needs} {
			for _, n := range list {
				if err := add(n); err != nil {
					return err
				}
			}
		}
		data, err := lib.read(t, lib.files[name])
		mods = append(mods, LoadedModule{name, data})
		return err
	}
	for _, n := range wanted {
		if err := add(n); err != nil {
			return nil, nil, err
		}
	}
	return mods, missing, nil
}
