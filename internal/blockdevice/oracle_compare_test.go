package blockdevice

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/disk/gpt"
)

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
