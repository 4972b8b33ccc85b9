package blockdevice

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/testenv"
	"goldsmith/internal/yaml11"
)

const original = "/usr/lib/python3/dist-packages/diskimage_builder"

type oracleCase struct {
	YAML   string         `json:"yaml"`
	Params map[string]any `json:"params"`
	Sgdisk bool           `json:"sgdisk"` // run it, which takes a second
	Sizes  []string       `json:"sizes,omitempty"`
}

type oracleResult struct {
	Graph       any        `json:"graph"`
	Plan, OK    bool       // it made the graph; it made everything
	Label, Type string     // of the root
	Points      []string   `json:"points"`
	Order       []string   `json:"order"`
	Edges       [][]string `json:"edges"`
	Fstab       string     `json:"fstab"`
	Devices     []string   `json:"devices"`
	Mkfs        [][]string `json:"mkfs"`
	Error       string     `json:"error"`
	Sizes       []*float64 `json:"sizes"`
}

const oracleSize = 64 << 30 // bytes of disks without a size

// oracle runs the original. images has a directory for each case that it
// carried out, by number, with the disks.
func oracle(t *testing.T, cases []oracleCase) (results []oracleResult, images string) {
	t.Helper()
	testenv.NeedFile(t, original)
	testenv.Need(t, "sgdisk")
	in, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	images = t.TempDir()
	cmd := exec.Command("/usr/bin/python3", "testdata/oracle.py", images)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &results); err != nil {
		t.Fatal(err)
	}
	return results, images
}

// value is a node as Python's JSON has it.
func value(n *yaml11.Node) any {
	switch n.Kind {
	case yaml11.Null:
		return nil
	case yaml11.Bool:
		return n.Bool
	case yaml11.Int:
		f, _ := n.Int.Float64()
		return f
	case yaml11.Float:
		return n.Float
	case yaml11.List:
		list := []any{}
		for _, i := range n.Items {
			list = append(list, value(i))
		}
		return list
	case yaml11.Mapping:
		m := map[string]any{}
		for _, p := range n.Pairs {
			m[p.Key.String()] = value(p.Value)
		}
		return m
	}
	return n.Text
}

func (e *entry) asJSON() map[string]any {
	m := map[string]any{}
	for k, v := range e.values {
		m[k] = value(v)
	}
	if e.partitions != nil {
		list := []any{}
		for _, p := range e.partitions {
			list = append(list, p.asJSON())
		}
		m["partitions"] = list
	}
	return m
}

func (c *Config) asJSON() any {
	list := []any{}
	for _, e := range c.entries {
		list = append(list, map[string]any{e.plugin: e.asJSON()})
	}
	return list
}

// onPurpose are the differences that are meant, by what our error says when we
// refuse what the original takes.
var onPurpose = []struct{ says, reason string }{
	{"do not fit", "a partition larger than what is free: the original writes a table that leads beyond the disk"},
	{"less than the 1 MiB", "a partition that rounds to nothing: sgdisk takes +0M for all that is free"},
	{"less than a sector", "a partition of no size"},
	{"is not a part of a disk", "more than 100%"},
	{"room for four primary", "a fifth entry overwrites the record's signature"},
	{"is used by", "two things on one device: the second destroys the first"},
	{"shell would take apart", "a name that hooks' eval would run"},
}

// fakeUUID is what the original's fixtures have for UUIDs, which no program that
// makes a file system takes.
var fakeUUID = regexp.MustCompile(`uuid: \w+-uuid-1234`)

// tally counts how cases compare.
type tally struct {
	equal     int
	carried   int // out by the original
	different map[string]int
}

const (
	fixtureCases   = "block devices: fixtures and elements' files, two root file systems"
	generatedCases = "block devices, generated"
)

func (c *tally) row(matter string) testenv.Row {
	row := testenv.Row{Matter: matter, Equal: c.equal, Note: fmt.Sprintf("The original carries %d out", c.carried)}
	for _, reason := range slices.Sorted(maps.Keys(c.different)) {
		row.Different = append(row.Different, testenv.Difference{Cases: c.different[reason], Why: reason})
	}
	slices.SortStableFunc(row.Different, func(a, b testenv.Difference) int { return b.Cases - a.Cases })
	return row
}

func TestOracle(t *testing.T) {
	var cases []oracleCase
	var names []string
	for _, pattern := range []string{"block_device/tests/config/*.yaml", "elements/*/block-device-*.yaml"} {
		files, err := filepath.Glob(filepath.Join(original, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text := fakeUUID.ReplaceAllString(string(b), "uuid: 12345678-9abc-4def-8123-456789abcdef")
			for _, fs := range []string{"ext4", "xfs"} {
				cases = append(cases, oracleCase{YAML: text, Params: params(fs, "", ""), Sgdisk: fs == "xfs"})
				names = append(names, f)
			}
		}
	}
	fixtures := len(cases)
	for seed := range 800 {
		c := configGen.Example(seed)
		c.Sgdisk = seed < 15
		cases = append(cases, c)
		names = append(names, fmt.Sprintf("generated %d", seed))
	}
	results, images := oracle(t, cases)
	count := map[string]*tally{}
	for i, r := range results {
		kind := generatedCases
		if i < fixtures {
			kind = fixtureCases
		}
		if count[kind] == nil {
			count[kind] = &tally{different: map[string]int{}}
		}
		if r.OK {
			count[kind].carried++
		}
		reason, err := compare(cases[i], r, filepath.Join(images, fmt.Sprint(i)))
		switch {
		case err != nil:
			t.Errorf("%s: %v\n%s", names[i], err, cases[i].YAML)
		case reason != "":
			count[kind].different[reason]++
		default:
			count[kind].equal++
		}
	}
	for _, matter := range []string{fixtureCases, generatedCases} {
		testenv.Proof(t, count[matter].row(matter))
	}
}

func params(fs, label, opts string) map[string]any {
	p := map[string]any{"root-fs-type": fs, "root-label": nil, "image-size": fmt.Sprint(oracleSize)}
	if label != "" {
		p["root-label"] = label
	}
	if opts != "" {
		p["root-fs-opts"] = opts
	}
	return p
}

// compare compares one case. reason is why it differs on purpose.
func compare(c oracleCase, want oracleResult, images string) (reason string, err error) {
	config, err := Parse("f", []byte(c.YAML))
	if err != nil {
		if want.Graph != nil && !strings.Contains(err.Error(), "needs a name") {
			return "", fmt.Errorf("refused: %w; the original takes it", err)
		}
		return "", nil
	}
	if want.Graph == nil {
		return "", fmt.Errorf("taken, but the original says %s", want.Error)
	}
	if diff := cmp.Diff(want.Graph, config.asJSON()); diff != "" {
		return "", fmt.Errorf("flat list (-original +ours):\n%s", diff)
	}
	str := func(k string) string { s, _ := c.Params[k].(string); return s }
	p := Params{RootFSType: str("root-fs-type"), RootLabel: str("root-label"), RootFSOpts: str("root-fs-opts"),
		Size: oracleSize, Seed: "s"}
	plan, err := config.Plan(p)
	if err != nil {
		if !want.OK {
			return "", nil
		}
		for _, d := range onPurpose {
			if strings.Contains(err.Error(), d.says) {
				return d.reason, nil
			}
		}
		return "", fmt.Errorf("refused: %w; the original takes it", err)
	}
	if !want.OK {
		for _, number := range []string{"not subscriptable", "can't convert non-string"} {
			if strings.Contains(want.Error, number) {
				return "a size or type without quotes: the original crashes on numbers", nil
			}
		}
		return "", fmt.Errorf("taken, but the original says %s", want.Error)
	}
	return comparePlan(plan, want, images, c.Sgdisk)
}

func comparePlan(plan *Plan, want oracleResult, images string, sgdisk bool) (string, error) {
	if !strings.EqualFold(plan.RootLabel(), want.Label) || plan.RootFSType() != want.Type { // FAT's is in capitals
		return "", fmt.Errorf("root is %s %s, want %s %s", plan.RootFSType(), plan.RootLabel(), want.Type, want.Label)
	}
	if diff := cmp.Diff(want.Points, plan.MountPoints()); diff != "" {
		return "", fmt.Errorf("mount points:\n%s", diff)
	}
	if hidden(want.Order, plan) {
		return "a mount point below another that the original mounts before it, and so hides", nil
	}
	var order []string
	edges := [][]string{}
	for _, n := range plan.Order() {
		order = append(order, n.Name)
		for _, a := range n.After {
			edges = append(edges, []string{a, n.Name})
		}
	}
	slices.SortFunc(edges, slices.Compare)
	if diff := cmp.Diff(want.Edges, edges); diff != "" {
		return "", fmt.Errorf("edges:\n%s", diff)
	}
	if diff := cmp.Diff(want.Order, order); diff != "" {
		return "", fmt.Errorf("order:\n%s", diff)
	}
	if diff := cmp.Diff(want.Fstab, string(plan.Fstab())); diff != "" {
		return "", fmt.Errorf("fstab:\n%s", diff)
	}
	if diff := cmp.Diff(plainCommands(want.Mkfs), mkfsCommands(plan)); diff != "" {
		return "", fmt.Errorf("mkfs:\n%s", diff)
	}
	return "", compareTables(plan, images, sgdisk)
}

// hidden says whether the original mounts something after what lies below it.
func hidden(order []string, plan *Plan) bool {
	point := map[string]string{}
	for _, m := range plan.mounts {
		point[m.name] = m.point
	}
	var seen []string
	for _, name := range order {
		p := point[name]
		if p == "" {
			continue
		}
		for _, s := range seen {
			if strings.HasPrefix(s, p) {
				return true
			}
		}
		seen = append(seen, p)
	}
	return false
}

// mkfsCommands are our commands as the original words them.
func mkfsCommands(plan *Plan) []string {
	var all [][]string
	for _, n := range plan.nodes {
		if f, ok := n.it.(*filesystem); ok {
			all = append(all, append([]string{"mkfs", "-t", f.kind}, f.command("/dev/x")[1:]...))
		}
	}
	return plainCommands(all)
}

var (
	anyUUID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`)
	device  = regexp.MustCompile(`/dev/\S+$`)
	// added is what we add: identifiers that do not come from a random number.
	added = regexp.MustCompile(` -E hash_seed=UUID|,hash_seed=UUID| --invariant -i [0-9a-f]{8}|( btrfs .*) -U UUID`)
)

// plainCommands are commands without identifiers, devices and what we add.
func plainCommands(commands [][]string) []string {
	var all []string
	for _, c := range commands {
		s := device.ReplaceAllString(anyUUID.ReplaceAllString(strings.Join(c, " "), "UUID"), "DEV")
		all = append(all, added.ReplaceAllString(s, "$1"))
	}
	return all
}

// compareTables writes our tables and compares them with the original's, but
// for identifiers and for cylinders, heads and sectors: nothing reads those,
// and the original's are wrong.
func compareTables(plan *Plan, images string, sgdisk bool) error {
	for _, n := range plan.nodes {
		p, ok := n.it.(*partition)
		if !ok || p != p.table.partitions[0] {
			continue
		}
		theirs, err := os.Open(filepath.Join(images, p.table.disk+".raw"))
		if err != nil {
			return err
		}
		defer theirs.Close()
		fi, err := theirs.Stat()
		if err != nil {
			return err
		}
		ours, err := os.CreateTemp(images, "ours")
		if err != nil {
			return err
		}
		defer ours.Close()
		if err := ours.Truncate(fi.Size()); err != nil {
			return err
		}
		slots, err := plan.writeTable(ours, p.table, fi.Size(), 512)
		if err != nil {
			return err
		}
		switch {
		case p.table.gpt && !sgdisk:
		case p.table.gpt:
			err = compareGPT(theirs, ours, fi.Size())
		default:
			err = compareMBR(theirs, ours, slots)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func compareGPT(theirs, ours *os.File, size int64) error {
	want, err := gpt.Read(theirs, size, 512)
	if err != nil {
		return fmt.Errorf("original's table: %w", err)
	}
	got, err := gpt.Read(ours, size, 512)
	if err != nil {
		return err
	}
	for _, t := range []*gpt.Table{want, got} {
		t.GUID = ""
		for i := range t.Partitions {
			t.Partitions[i].GUID = ""
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("table:\n%s", diff)
	}
	return nil
}

func compareMBR(theirs, ours *os.File, slots []slot) error {
	records := []int64{0}
	for _, s := range slots {
		if s.ebr > 0 {
			records = append(records, s.ebr)
		}
	}
	for _, lba := range records {
		var sectors [2][512]byte
		for i, f := range []*os.File{theirs, ours} {
			if _, err := f.ReadAt(sectors[i][:], lba*512); err != nil {
				return err
			}
			clear(sectors[i][mbrDiskID : mbrDiskID+4])
			for e := mbrEntries; e < mbrSignature; e += 16 {
				clear(sectors[i][e+1 : e+4])
				clear(sectors[i][e+5 : e+8])
			}
		}
		if diff := cmp.Diff(sectors[0][440:], sectors[1][440:]); diff != "" {
			return fmt.Errorf("record at %d:\n%s", lba, diff)
		}
	}
	return nil
}

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

func TestOracleSizes(t *testing.T) {
	gen := rapid.StringMatching(`[0-9.]{0,6} ?([TGMK]i?B?|B|x|[0-9]|_)?( |%)?`)
	c := oracleCase{Sizes: []string{"", " ", ".", "1.5GiB", "1T", "1 TiB", "10", "1K\n", "007", "1.", ".5MB", "1 G",
		"1e3", "-1", "+1", "1GIB", "1g", "٣G", "99999999999999999999"}}
	for seed := range 2000 {
		c.Sizes = append(c.Sizes, gen.Example(seed))
	}
	results, _ := oracle(t, []oracleCase{c})
	equal, different := 0, 0
	for i, s := range c.Sizes {
		got, err := parseSize(s)
		want := results[0].Sizes[i]
		switch {
		case want == nil && err == nil, want != nil && err == nil && math.Abs(float64(got)-*want) >= 1:
			t.Errorf("size %q = %d, %v; the original says %v", s, got, err, want)
		case want != nil && err != nil:
			if *want < maxSize && s != "٣G" && s != "1K\n" {
				t.Errorf("size %q: %v; the original says %v", s, err, *want)
			}
			different++ // larger than any disk, other scripts' digits, or a newline at the end
		default:
			equal++
		}
	}
	testenv.Proof(t, testenv.Row{Matter: "sizes", Equal: equal, Different: []testenv.Difference{
		{Cases: different, Why: "larger than any disk, foreign digits, a newline at the end"},
	}})
}
