package bootentry

import (
	"cmp"
	"slices"
)

// Choice is the entry that systemd-boot starts without a menu: the newest with
// starts left or without a counter, else the newest. It is false when there is
// none. systemd-boot lowers the counter before it starts the entry.
func Choice(list []Entry) (Entry, bool) {
	if len(list) == 0 {
		return Entry{}, false
	}
	return slices.MaxFunc(list, func(x, y Entry) int {
		return cmp.Or(usable(x)-usable(y), CompareVersions(x.ID, y.ID))
	}), true
}

func usable(e Entry) int {
	if e.Counted && e.Left == 0 {
		return 0
	}
	return 1
}

// Choice is the ID of the version that [GrubConfig] starts first. On trial, that
// has left starts, this one among them; left is 0 for the good version, which is
// not counted.
func (e Env) Choice() (id string, left int) {
	if n := slices.Index([]string{"1", "2", "3"}, e[EnvLeft]) + 1; n > 0 && e[EnvTry] != "" {
		return e[EnvTry], n
	}
	return e[EnvGood], 0
}
