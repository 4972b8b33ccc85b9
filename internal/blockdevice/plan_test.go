package blockdevice

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
)

func mustPlan(t *testing.T, config string, p Params) *Plan {
	t.Helper()
	plan, err := planOf(config, p)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func planOf(config string, p Params) (*Plan, error) {
	c, err := Parse("config.yaml", []byte(config))
	if err != nil {
		return nil, err
	}
	return c.Plan(p)
}

func TestDefault(t *testing.T) {
	plan, err := Default().Plan(Params{RootFSType: "xfs", Seed: "s"})
	if err != nil {
		t.Fatal(err)
	}
	if plan.RootFSType() != "xfs" || plan.RootLabel() != "img-rootfs" || plan.BootLabel() != "" {
		t.Errorf("root is %s %s, boot %q", plan.RootFSType(), plan.RootLabel(), plan.BootLabel())
	}
	if got, want := string(plan.Fstab()), "LABEL=img-rootfs / xfs defaults 0 1\n"; got != want {
		t.Errorf("fstab is %q, want %q", got, want)
	}
	if diff := cmp.Diff([]Image{{"image0", 0, 512}}, plan.Images()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"mkfs.xfs"}, plan.Programs()); diff != "" {
		t.Error(diff)
	}
}

func TestPlanOfVolumesAndSwap(t *testing.T) {
	plan := mustPlan(t, `
- local_loop: {name: image0, size: 4GiB, block_size: 4096}
- partitioning:
    base: image0
    label: gpt
    partitions:
      - {name: ESP, type: EF00, size: 100MiB, mkfs: {type: vfat, mount: {mount_point: /boot/efi, fstab: {}}}}
      - {name: boot, size: 200MiB, mkfs: {type: ext3, label: my boot, mount: {mount_point: /boot, fstab: {}}}}
      - {name: swap, size: 100MiB, mkfs: {type: swap, mount: {mount_point: swap, fstab: {options: x}}}}
      - {name: pv, size: 100%}
- lvm:
    name: lvm
    pvs: [{name: pv0, base: pv}]
    vgs: [{name: my-vg, base: [pv0]}]
    lvs:
      - {name: pool, base: my-vg, type: thin-pool, extents: 50%VG}
      - {name: root, base: my-vg, type: thin, thin-pool: pool, size: 9GB}
- mkfs: {name: mkfs_root, base: root, mount: {mount_point: /, fstab: {fsck-passno: 1}}}
`, Params{RootLabel: "r", RootFSOpts: "-i 4096"})
	want := `LABEL=r / ext4 defaults 0 1
LABEL=my\040boot /boot ext3 defaults 0 2
LABEL=MKFS_ESP /boot/efi vfat defaults 0 2
LABEL=mkfs_swap none swap sw 0 0
`
	if diff := cmp.Diff(want, string(plan.Fstab())); diff != "" {
		t.Errorf("fstab:\n%s", diff)
	}
	if got := strings.Join(plan.MountPoints(), "|"); got != "/boot/efi|/boot|/" {
		t.Errorf("mount points %s", got)
	}
	if got := plan.BootLabel(); got != "my boot" {
		t.Errorf("boot label %q", got)
	}
	if got := strings.Join(plan.Programs(), " "); got != "lvm mkfs.ext3 mkfs.ext4 mkfs.vfat mkswap" {
		t.Errorf("programs %s", got)
	}
	if got := strings.Join(plan.Modules(), " "); got != "dm-mod dm-thin-pool ext4 nls_ascii nls_cp437 vfat" {
		t.Errorf("modules %s", got)
	}
	if diff := cmp.Diff([]Image{{"image0", 4 << 30, 4096}}, plan.Images()); diff != "" {
		t.Error(diff)
	}
	var lvs []string
	for _, n := range plan.nodes {
		if v, ok := n.it.(*volumes); ok {
			for _, l := range v.lvs {
				c := l.command()
				lvs = append(lvs, strings.Join(append(c[:2:2], c[5:]...), " ")+" = "+l.device)
			}
		}
	}
	if diff := cmp.Diff([]string{
		"lvm lvcreate --name pool --type thin-pool -l 50%VG my-vg = /dev/mapper/my--vg-pool",
		"lvm lvcreate --name root --type thin --thinpool pool -V 8996782080b my-vg = /dev/mapper/my--vg-root",
	}, lvs); diff != "" {
		t.Error(diff)
	}
}

// rest makes a configuration that is right but for what is in it.
const rest = `
- local_loop: {name: image0, size: 1GiB}
- mkfs: {name: mkfs_root, base: ROOT, mount: {mount_point: /}}
- partitioning: {base: image0, label: LABEL, partitions: [PARTITIONS]}
EXTRA
`

func TestErrors(t *testing.T) {
	for _, c := range []struct{ root, label, partitions, extra, want string }{
		{"p", "mbr", "{name: p, size: 100%}", "", ""},
		{"q", "mbr", "{name: p, size: 100%}", "", `3: "q" is not defined, but mkfs_root needs it`},
		{"image0", "mbr", "{name: p, size: 100%}", "", "partitioning: base \"image0\" is used by mkfs mkfs_root already"},
		{"p", "mbr", "{name: p, size: 2GiB}", "", "partition p: 2147483648 bytes do not fit, 1071644672 are free"},
		{"p", "gpt", "{name: p, size: 2GiB}", "", "partition p: 2147483648 bytes do not fit, 1071644672 are free"},
		{"p", "gpt", "{name: p, size: 300K}", "", "less than the 1 MiB"},
		{"p", "mbr", "{name: p}", "", "partition p: needs a size"},
		{"p", "mbr", "{size: 1M}", "", "partition: needs a name"},
		{"p", "mbr", "{name: p, size: 1Q}", "", `size: "1Q" is not a size: unit "Q" is not known`},
		{"p", "gpt", "{name: p, size: 100%, flags: [primary]}", "", "a gpt has no primary partitions"},
		{"p", "gpt", "{name: p, size: 100%, type: swap}", "", "neither a code such as 8300 nor a GUID"},
		{"p", "mbr", "{name: p, size: 100%, type: 0x183}", "", "want a number from 0x01 to 0xff"},
		{"p", "mbr", "{name: p, size: 100%, flags: [root]}", "", `flag "root": want boot or primary`},
		{"p", "dos", "{name: p, size: 100%}", "", `label "dos": want mbr or gpt`},
		{"p", "mbr", "{name: p, size: 1M}, {name: q, size: 1M, flags: [primary]}", "", "must be given first"},
		{"p", "mbr", strings.Repeat("{name: p, size: 1M, flags: [primary]}, ", 2), "", `name "p" is used more than once`},
		{"p", "mbr", "{name: 'p $(x)', size: 1M}", "", "characters that a shell would take apart"},
		{"p", "mbr", "{name: p, size: 1M}", "- mkfs: {base: p, type: ext4}", "is used by mkfs mkfs_root already"},
		{"p", "mbr", "{name: p, size: 9M}, {name: q, size: 9M}", "- mkfs: {base: q, type: ext4, label: cloudimg-rootfs}",
			`label "cloudimg-rootfs" is used more than once`},
		{"p", "mbr", "{name: p, size: 9M}, {name: q, size: 9M}", "- mkfs: {base: q, type: xfs, label: thirteen-long}",
			"has 13 bytes, xfs takes 12"},
		{"p", "mbr", "{name: p, size: 9M}, {name: q, size: 9M}", "- mkfs: {base: q, type: xfs, mount: {mount_point: //}}",
			"mount point // is used more than once"},
		{"p", "mbr", "{name: p, size: 9M}, {name: q, size: 9M}", "- mkfs: {base: q, type: xfs, mount: {mount_point: /../x}}",
			"is not a place in the image"},
		{"p", "mbr", "{name: p, size: 9M}, {name: q, size: 9M}", "- mkfs: {base: q, label: 0755, type: ext4}",
			"mkfs: label: want text, not a whole number"},
		{"p", "mbr", "{name: p, size: 1M}", "- partitioning: {base: nope, label: gpt, partitions: []}",
			`base "nope" is not defined`},
		{"p", "mbr", "{name: p, size: 1M}", "- crypt: {base: p}", `plugin "crypt" is not known`},
		{"p", "mbr", "{name: p, size: 1M}", "- mount: {base: p, mount_point: /x}", `base "p" is no file system`},
		{"lv", "mbr", "{name: p, size: 50M}", "- lvm: {name: l, pvs: [{name: pv, base: p}], vgs: [{name: vg, base: [pv]}], " +
			"lvs: [{name: lv, base: vg, size: 60M}]}", "vg vg: its volumes are 12582912 bytes larger than it"},
		{"lv", "mbr", "{name: p, size: 50M}", "- lvm: {name: l, pvs: [{name: pv, base: lv}], " +
			"vgs: [{name: vg, base: [pv]}], lvs: [{name: lv, base: vg, size: 60M}]}", "stands on itself, by way of others"},
		{"lv", "mbr", "{name: p, size: 50M}", "- lvm: {name: l, pvs: [{name: pv, base: p}], " +
			"vgs: [{name: -vg, base: [pv]}], lvs: []}", `lvm does not take "-vg" for a name`},
		{"p", "mbr", "{name: p, size: 1M}", "- lvm: {name: l, pvs: [], vgs: []}", "lvm: needs lvs, a list"},
	} {
		text := strings.NewReplacer("ROOT", c.root, "LABEL", c.label, "PARTITIONS", c.partitions, "EXTRA", c.extra).
			Replace(rest)
		_, err := planOf(text, Params{})
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%v\n%s", err, text)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("got %v, want %s\n%s", err, c.want, text)
		case err != nil && (command.Status(err) != command.StatusUsage || !strings.HasPrefix(err.Error(), "config.yaml:")):
			t.Errorf("not an error of a file: %v", err)
		}
	}
}

func TestRootIsNeeded(t *testing.T) {
	for text, want := range map[string]string{
		"- local_loop: {name: image0}":                                              "no file system is mounted at /",
		"- local_loop: {name: d, mkfs: {name: mkfs_root, mount: {mount_point: /}}}": "no local_loop is called image0",
		"- local_loop: {name: image0, mkfs: {type: ext4, mount: {mount_point: /}}}": "needs a label",
		"- local_loop: {name: image0, mkfs: {label: x, mount: {mount_point: /}}}":   "needs a type",
		"- local_loop: {mkfs: {label: x, type: ext4}}":                              "local_loop: needs a name",
		"- local_loop: {name: image0, size: 1001, mkfs: {type: ext4}}":              "not a multiple",
		"{}":             "is a list, not",
		"- {a: 1, b: 2}": "one key",
	} {
		if _, err := planOf(text, Params{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// A wrong value is told by its own line.
func TestErrorLines(t *testing.T) {
	const whole = `- local_loop:
    name: image0
    size: 100MiB
- partitioning:
    base: image0
    label: gpt
    align: 1MiB
    partitions:
      - name: p
        size: 50%
        flags: [boot]
        mkfs:
          name: f
          type: ext4
          label: l
          mount:
            name: m
            mount_point: /
`
	for _, c := range []struct {
		right, wrong string
		line         int
	}{
		{"size: 100MiB", "size: 1001", 3}, {"label: gpt", "label: dos", 6}, {"label: gpt", "label: ", 6},
		{"align: 1MiB", "align: 1", 7},
		{"size: 50%", "size: 500%", 10}, {"flags: [boot]", "flags: [x]", 11}, {"flags: [boot]", "flags: [primary]", 11},
		{"type: ext4", "type: EXT 4", 14}, {"type: ext4", "type: ", 14}, {"type: ext4", "type: 4", 14},
		{"label: l", "label: longer-than-sixteen", 15}, {"name: f", "name: a;b", 13}, {"name: m", "name: p", 9},
		{"mount_point: /", "mount_point: /../x", 18}, {"          type: ext4\n", "", 12},
	} {
		_, err := planOf(strings.Replace(whole, c.right, c.wrong, 1), Params{})
		if want := fmt.Sprintf("config.yaml:%d: ", c.line); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q: %v; want %s", c.wrong, err, want)
		}
	}
	plan := mustPlan(t, whole, Params{})
	if got := plan.Wants("mkfs.ext4"); got != "config.yaml:14" {
		t.Errorf("Wants = %q", got)
	}
	if plan, err := Default().Plan(Params{}); err != nil || plan.Wants("mkfs.ext4") != "default block device" {
		t.Errorf("Wants of the default = %q, %v", plan.Wants("mkfs.ext4"), err)
	}
	if got := plan.Wants("mkfs.xfs") + plan.Wants("lvm"); got != "" {
		t.Errorf("Wants what nothing does = %q", got)
	}
}

// A uuid is one that the file system's program takes as it is, or refused where
// it stands.
func TestUUID(t *testing.T) {
	const long = "01234567-89ab-CDEF-0123-456789abcdef"
	for _, c := range []struct {
		kind, uuid string
		ok         bool
	}{
		{"ext4", long, true}, {"vfat", long, true}, {"vfat", "12ab-CD34", true}, {"fat", "1234-5678", true},
		{"ext4", "12ab-CD34", false}, {"swap", "1234-5678", false}, {"vfat", "12-34", false}, {"vfat", "not-a-uuid-x", false},
		{"vfat", "12ab-CD345", false}, {"vfat", "12345678", false}, {"xfs", long + "0", false}, {"ext4", " " + long, false},
		{"ext4", "random", false}, {"xfs", "g" + long[1:], false}, {"btrfs", "{" + long + "}", false},
		{"ext4", long + "\n", false},
	} {
		plan, err := planOf(`- local_loop: {name: image0}
- mkfs:
    name: f
    base: image0
    type: `+c.kind+`
    label: l
    uuid: "`+c.uuid+`"
    mount: {mount_point: /}
`, Params{})
		if !c.ok {
			if err == nil || !strings.HasPrefix(err.Error(), "config.yaml:7: mkfs f: uuid ") ||
				command.Status(err) != command.StatusUsage {
				t.Errorf("%s, %q: %v", c.kind, c.uuid, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s, %q: %v", c.kind, c.uuid, err)
			continue
		}
		args := " " + strings.Join(plan.root.command("/dev/x"), " ") + " "
		short := strings.ReplaceAll(c.uuid, "-", "")[:8]
		if !strings.Contains(args, " "+c.uuid+" ") && !strings.Contains(args, " -i "+short+" ") {
			t.Errorf("%s, %q: %s", c.kind, c.uuid, args)
		}
	}
}

func TestTooManyImages(t *testing.T) {
	config := "- local_loop: {name: image0, mkfs: {name: mkfs_root, mount: {mount_point: /}}}\n"
	for i := range 19 {
		config += fmt.Sprintf("- local_loop: {name: d%d}\n", i)
	}
	if plan := mustPlan(t, config, Params{}); len(plan.Images()) != 20 {
		t.Errorf("%d images", len(plan.Images()))
	}
	_, err := planOf(config+"- local_loop: {name: more}\n", Params{})
	const want = "config.yaml:21: local_loop more: more than 20 images"
	if err == nil || command.Status(err) != command.StatusUsage || err.Error() != want {
		t.Errorf("one more: %v", err)
	}
}

// Identifiers come from the seed and nothing else.
func TestSeed(t *testing.T) {
	uuid := func(seed string) string {
		plan := mustPlan(t, createGPT, Params{Seed: seed})
		for _, n := range plan.nodes {
			if f, ok := n.it.(*filesystem); ok {
				return f.uuid
			}
		}
		return ""
	}
	a, again, b := uuid("a"), uuid("a"), uuid("b")
	if a != again || a == b || !anyUUID.MatchString(a) {
		t.Errorf("UUIDs %s, %s, %s", a, again, b)
	}
}

func FuzzParse(f *testing.F) {
	nested := "- local_loop: {name: image0, mkfs: {mount: {fstab: 1}}}"
	for _, s := range []string{createMBR, createGPT, createLVM, nested} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b)
		if err != nil {
			return
		}
		plan, err := c.Plan(Params{Size: 1 << 30})
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, n := range plan.Order() {
			for _, a := range n.After {
				if !seen[a] {
					t.Fatalf("%s is created before %s", n.Name, a)
				}
			}
			seen[n.Name] = true
		}
		_, _, _ = plan.Fstab(), plan.RootLabel(), plan.Images()
	})
}
