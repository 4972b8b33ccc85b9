package blockdevice

import (
	"fmt"
	"slices"
	"strings"

	"pgregory.net/rapid"
)

// configGen makes configurations, some of them wrong.
var configGen = rapid.Custom(func(t *rapid.T) oracleCase {
	g := &generator{t: t}
	if !g.wrong() {
		g.line(0, "- local_loop:")
		g.line(4, "name: image0")
		g.maybe(4, "size", sizes...)
	}
	switch g.pick("table", "table", "table", "table", "bare", "lvm", "two") {
	case "bare":
		g.mkfs(2, "image0", true)
	case "two":
		g.line(0, "- local_loop:")
		g.line(4, "name: %s", g.or("data", "image0", "disk1"))
		g.maybe(4, "size", sizes...)
		g.table("data", "d")
		g.table("image0", "p")
	case "lvm":
		g.table("image0", "p")
		g.lvm()
	default:
		g.table("image0", "p")
	}
	for _, free := range g.free {
		if g.number(1) > 0 {
			g.mkfs(2, free, true)
		}
	}
	if g.wrong() {
		g.mkfs(2, g.pick("p1", "image0", "vg1", "nothing"), true)
	}
	return oracleCase{YAML: g.String(), Params: params(
		g.or(g.pick("ext4", "xfs"), "vfat"), g.or(g.pick("", "", "ROOT"), "a-label-too-long-for-some"),
		g.pick("", "-i 4096 -J size=64"))}
})

var sizes = []string{"1GiB", "2GB", "300MiB", "'2 G'", "1.5GiB"}

type generator struct {
	t *rapid.T
	strings.Builder
	filesystems int
	free        []string // devices without a file system
	points      []string
}

func (g *generator) pick(of ...string) string { return rapid.SampledFrom(of).Draw(g.t, "pick") }
func (g *generator) number(limit int) int {
	return int(rapid.Uint32().Draw(g.t, "number")) % (limit + 1)
}

// wrong is rarely true: a mistake is to be made.
func (g *generator) wrong() bool { return g.number(39) == 0 }

// or is wrong, rarely, else right.
func (g *generator) or(right string, wrong ...string) string {
	if g.wrong() {
		return g.pick(wrong...)
	}
	return right
}

func (g *generator) line(indent int, format string, args ...any) {
	fmt.Fprintf(g, strings.Repeat(" ", indent)+format+"\n", args...)
}

func (g *generator) maybe(indent int, key string, values ...string) {
	if v := g.pick(append([]string{""}, values...)...); v != "" {
		g.line(indent, "%s: %s", key, v)
	}
}

func (g *generator) table(base, prefix string) {
	g.line(0, "- partitioning:")
	g.line(4, "base: %s", base)
	label := g.or(g.pick("mbr", "gpt"), "dos")
	g.line(4, "label: %s", label)
	g.maybe(4, "align", "1MiB", "4MiB", "64KiB")
	g.line(4, "partitions:")
	primary := true
	for i := range 1 + g.number(4) {
		name := g.or(fmt.Sprint(prefix, i+1), "root", "p1")
		g.line(6, "- name: %s", name)
		size := g.pick("8MiB", "50MiB", "10%", "25%", "'20 %'", "64M", "0.03GiB", "3MB")
		g.line(8, "size: %s", g.or(size, "5GiB", "101%", "''", "x", "0", "1B", "300000", "100%"))
		if label == "mbr" {
			g.maybe(8, "type", g.or("'0x83'", "82", "0x83"), "'8e'")
			if primary = primary && i < 3 && g.number(3) > 0; primary {
				g.line(8, "flags: [primary]")
			} else {
				g.maybe(8, "flags", "[boot]", g.or("[]", "[boot, x]", "[primary]"))
			}
		} else {
			g.maybe(8, "type", "EF00", "'8300'", "EF02", "8200", "'0x4100'", "'1234'",
				"4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "8E00", "ef01")
			g.maybe(8, "flags", "[boot]", g.or("[]", "[primary]"))
		}
		if g.number(2) > 0 {
			g.mkfs(8, name, false)
		} else {
			g.free = append(g.free, name)
		}
	}
}

func (g *generator) mkfs(indent int, base string, top bool) {
	g.filesystems++
	if top {
		g.line(0, "- mkfs:")
		g.line(4, "base: %s", base)
	} else {
		g.line(indent, "mkfs:")
	}
	in := indent + 2
	own := fmt.Sprintf("fs%d", g.filesystems)
	root := g.filesystems == 1
	if name := g.or(own, "fs1"); root && g.number(1) > 0 {
		g.line(in, "name: mkfs_root")
		root = false // needs nothing else
		g.maybe(in, "type", "ext4", "xfs")
	} else {
		g.maybe(in, "name", name)
		if !g.wrong() {
			g.line(in, "type: %s", g.pick("ext4", "xfs", "ext2", "btrfs", "vfat"))
		}
	}
	if root && !g.wrong() || g.number(1) > 0 {
		g.line(in, "label: %s", g.or(own, "same", "twelve-bytes", "sixteen-bytes-xx", "seventeen-bytes-x"))
	}
	g.maybe(in, "opts", "-i 4096", "'-m 5 -E resize=9'")
	g.maybe(in, "uuid", "12345678-9abc-4def-8123-456789abcdef")
	point := g.or("/", "/var")
	if g.filesystems > 1 {
		if g.number(6) == 0 {
			return
		}
		point = g.pick("/var", "/var/log", "/home", "/boot", "/boot/efi", "/varnish", "srv", "/var/lib", "/opt", "/tmp")
		if slices.Contains(g.points, point) && !g.wrong() {
			return
		}
	}
	g.points = append(g.points, point)
	g.line(in, "mount:")
	g.line(in+2, "mount_point: %s", point)
	if g.number(3) > 0 {
		g.line(in+2, "fstab:")
		g.line(in+4, "options: %s", g.pick("defaults", "rw,noatime"))
		g.maybe(in+4, "fsck-passno", "1", "'2'")
		g.maybe(in+4, "dump-freq", "1")
		g.maybe(in+4, "unknown", "[a]")
	}
}

func (g *generator) lvm() {
	if len(g.free) == 0 {
		g.free = []string{"p1"}
	}
	g.line(0, "- lvm:")
	g.maybe(4, "base", "[p1]")
	g.line(4, "name: %s", g.or("lvm", "vg1"))
	g.line(4, "pvs:")
	pvs := 0
	for i := range min(1+g.number(1), len(g.free)) {
		pvs++
		g.line(6, "- name: pv%d", i+1)
		g.line(8, "base: %s", g.or(g.free[i], "p1", "nothing"))
		g.maybe(8, "options", "[--force]")
	}
	g.free = g.free[pvs:]
	g.line(4, "vgs:")
	g.line(6, "- name: vg1")
	g.line(8, "base: %s", g.or(map[int]string{1: "[pv1]", 2: "[pv2, pv1]"}[pvs], "[pv1, pv3]", "pv1"))
	g.line(4, "lvs:")
	for i := range 1 + g.number(2) {
		g.line(6, "- name: lv%d", i+1)
		g.line(8, "base: %s", g.or("vg1", "vg2"))
		g.line(8, "%s", g.or("extents: 25%VG", "size: 8MiB", "options: []"))
		g.free = append(g.free, fmt.Sprintf("lv%d", i+1))
	}
}
