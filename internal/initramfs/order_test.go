package initramfs

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/tree"
)

func TestModules(t *testing.T) {
	for _, c := range []struct {
		names, loaded, missing string
	}{
		{"", "", ""},
		{"libcrc32c", "crc32c_intel crc32c_generic libcrc32c", ""},
		{"erofs", "crc32c_intel crc32c_generic libcrc32c erofs", ""}, // what a dependency wants, too
		{"virtio-rng", "virtio_ring virtio_rng", ""},                 // dashes, and no softdep at all
		{"virtio_rng virtio_blk", "virtio_ring virtio_rng virtio_blk", ""},
		{"virtio_blk virtio_ring virtio-blk", "virtio_ring virtio_blk", ""}, // each once
		{"ext4", "crc32c_intel crc32c_generic crc16 jbd2 ext4", ""},         // "post" is not its business
		{"overlay", "", ""}, // built in
		{"overlay nowhere loud no-such", "loud", "nowhere no_such"},
	} {
		mods, missing, err := Modules(sampleRoot(), version, strings.Fields(c.names))
		if err != nil {
			t.Errorf("%s: %v", c.names, err)
			continue
		}
		var loaded []string
		for _, m := range mods {
			loaded = append(loaded, m.Name)
			got := string(m.Data)
			if !strings.HasPrefix(got, "module kernel/") || moduleName(got[strings.LastIndex(got, "/")+1:]) != m.Name {
				t.Errorf("%s: %s has the content %q", c.names, m.Name, got)
			}
		}
		if got := strings.Join(loaded, " "); got != c.loaded {
			t.Errorf("%s: loads %q; want %q", c.names, got, c.loaded)
		}
		if got := strings.Join(missing, " "); got != c.missing {
			t.Errorf("%s: missing %q; want %q", c.names, got, c.missing)
		}
	}
}

// depmod lists what a module needs indirectly, too: the last of it first.
func TestModulesOfAChain(t *testing.T) {
	root := tree.New()
	dir := "lib/modules/" + version + "/" // without a merged /usr
	root.AddFile(dir+"modules.dep", 0o644,
		[]byte("k/a.ko: k/b.ko k/c.ko k/d.ko\nk/b.ko: k/c.ko k/d.ko\nk/c.ko: k/d.ko\nk/d.ko:\n"))
	root.AddFile(dir+"modules.builtin", 0o644, []byte("kernel/fs/over-lay.ko\n"))
	for _, m := range []string{"a", "b", "c", "d"} {
		root.AddFile(dir+"k/"+m+".ko", 0o644, []byte(m))
	}
	mods, missing, err := Modules(root, version, []string{"over_lay", "over-lay", "a"})
	want := []LoadedModule{{"d", []byte("d")}, {"c", []byte("c")}, {"b", []byte("b")}, {"a", []byte("a")}}
	if diff := cmp.Diff(want, mods); err != nil || len(missing) != 0 || diff != "" {
		t.Errorf("%v, missing %q (-want +got):\n%s", err, missing, diff)
	}
}

// Modules that want each other first are loaded, each once.
func TestModulesInACircle(t *testing.T) {
	root := sampleRoot()
	root.AddFile("usr/lib/modules/"+version+"/modules.softdep", 0o644,
		[]byte("softdep crc16 pre: loud\nsoftdep loud pre: crc16\n"))
	mods, _, err := Modules(root, version, []string{"loud", "crc16"})
	if err != nil || len(mods) != 2 || mods[0].Name != "crc16" || mods[1].Name != "loud" {
		t.Errorf("%v, %v", mods, err)
	}
}

func TestModulesRefuses(t *testing.T) {
	dir := "usr/lib/modules/" + version + "/"
	for want, c := range map[string]struct {
		kernel string
		change func(t *tree.Tree)
	}{
		"usr/lib/modules/5.0/modules.dep: not in the image; was depmod run for this kernel?": {"5.0", func(*tree.Tree) {}},
		`kernel version "../x"`: {"../x", func(*tree.Tree) {}},
		dir + "kernel/fs/jbd2/jbd2.ko: named by modules.dep but not there": {version, func(t *tree.Tree) {
			t.Remove(dir + "kernel/fs/jbd2/jbd2.ko")
		}},
		dir + `modules.dep: line "what" is malformed`: {version, func(t *tree.Tree) {
			t.AddFile(dir+"modules.dep", 0o644, []byte("what\n"))
		}},
	} {
		root := sampleRoot()
		c.change(root)
		mods, missing, err := Modules(root, c.kernel, []string{"ext4"})
		if err == nil || err.Error() != want || mods != nil || missing != nil {
			t.Errorf("got %v, %v, %v; want %s", mods, missing, err, want)
		}
	}
}

// The same kernel, the same order: the tree's files come from a map.
func TestModulesSameOrder(t *testing.T) {
	all := []string{"virtio_rng", "ext4", "erofs", "virtio_blk", "loud"}
	var first []LoadedModule
	for range 20 {
		mods, _, err := Modules(sampleRoot(), version, all)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = mods
		}
		if !slices.EqualFunc(first, mods, func(a, b LoadedModule) bool { return a.Name == b.Name }) {
			t.Fatalf("%v, then %v", first, mods)
		}
	}
}
