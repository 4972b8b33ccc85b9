package blockdevice

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/testenv"
)

// tableFile writes a plan's first table to a file of size bytes.
func tableFile(t interface{ Fatal(...any) }, dir string, plan *Plan, size int64, sector int) (string, []slot) {
	f, err := os.CreateTemp(dir, "disk")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	for _, n := range plan.nodes {
		if p, ok := n.it.(*partition); ok {
			slots, err := plan.writeTable(f, p.table, size, sector)
			if err != nil {
				t.Fatal(err)
			}
			return f.Name(), slots
		}
	}
	t.Fatal("no table")
	return "", nil
}

func TestGPTIsSound(t *testing.T) {
	testenv.Need(t, "sgdisk")
	plan := mustPlan(t, createGPT, Params{Seed: "x"})
	file, _ := tableFile(t, t.TempDir(), plan, 200<<20, 512)
	out, err := exec.Command("sgdisk", "-v", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "No problems found") {
		t.Errorf("sgdisk -v: %v\n%s", err, out)
	}
}

// On a disk with sectors of 4096 bytes a table counts in those.
func TestGPTOfLargeSectors(t *testing.T) {
	plan := mustPlan(t, createGPT, Params{Seed: "x", BlockSize: 4096})
	file, _ := tableFile(t, t.TempDir(), plan, 200<<20, 4096)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := gpt.Read(f, 200<<20, 4096)
	if err != nil {
		t.Fatal(err)
	}
	p := table.Partitions
	if len(p) != 2 || p[0].Start != mib || p[0].Size != 64*mib || p[1].Start != 65*mib || p[1].Size != 134*mib {
		t.Errorf("partitions %+v", p)
	}
}

// sfdisk reads every MBR as it was meant, logical partitions and all.
func TestMBRWithSfdisk(t *testing.T) {
	testenv.Need(t, "sfdisk")
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		primaries := rapid.IntRange(0, 3).Draw(t, "primaries")
		logical := rapid.IntRange(0, 5).Draw(t, "logical")
		var b strings.Builder
		b.WriteString("- local_loop: {name: image0, mkfs: {name: mkfs_root}}\n- local_loop: {name: d, size: 1GiB}\n" +
			"- partitioning:\n    base: d\n    label: mbr\n    partitions:\n")
		for i := range max(primaries+logical, 1) {
			flags := ""
			if i < primaries {
				flags = "primary"
			}
			size := rapid.IntRange(1<<20, 100<<20).Draw(t, "size")
			kind := rapid.SampledFrom([]int{0x83, 0x82, 0x8e, 0xef}).Draw(t, "type")
			fmt.Fprintf(&b, "      - {name: p%d, size: %d, flags: [%s], type: '%x'}\n", i, size, flags, kind)
		}
		b.WriteString("- mount: {base: mkfs_root, mount_point: /}\n")
		plan, err := planOf(b.String(), Params{Seed: "s"})
		if err != nil {
			t.Fatalf("%v\n%s", err, b.String())
		}
		file, slots := tableFile(t, dir, plan, 1<<30, 512)
		defer os.Remove(file)
		out, err := exec.Command("sfdisk", "-d", file).CombinedOutput()
		if err != nil {
			t.Fatalf("sfdisk: %v\n%s", err, out)
		}
		got := map[string]bool{}
		for l := range strings.Lines(string(out)) {
			name, rest, ok := strings.Cut(l, " : start=")
			if f := strings.FieldsFunc(rest, func(r rune) bool { return strings.ContainsRune(" ,=\n", r) }); ok && len(f) > 4 {
				got[fmt.Sprintf("%s %s %s %s", strings.TrimPrefix(strings.TrimPrefix(name, file), "p"), f[0], f[2], f[4])] = true
			}
		}
		for _, s := range slots {
			if want := fmt.Sprintf("%d %d %d %s", s.number, s.start, s.length, s.kind); !got[want] {
				t.Errorf("sfdisk does not see %s\n%s", want, out)
			}
		}
		if out, err := exec.Command("sfdisk", "--verify", file).CombinedOutput(); err != nil {
			t.Errorf("sfdisk --verify: %v\n%s", err, out)
		}
	})
}

func TestCHS(t *testing.T) {
	for _, c := range []struct {
		lba  int64
		want [3]byte
	}{
		{0, [3]byte{0, 1, 0}}, {2048, [3]byte{32, 33, 0}}, {254 * 63, [3]byte{0, 1, 1}},
		{254 * 63 * 1000, [3]byte{0, 0xc1, 1000 & 0xff}}, {1 << 31, [3]byte{253, 63 | 0xc0, 0xff}},
	} {
		if got := [3]byte(chs(c.lba)); got != c.want {
			t.Errorf("chs(%d) = %v, want %v", c.lba, got, c.want)
		}
	}
}

func TestGPTTypes(t *testing.T) {
	for _, c := range []struct {
		written, want string
		known         bool
	}{
		{"EF00", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", true},
		{"0x4100", "9e1a2d38-c612-4316-aa26-8b49521e5a8b", true},
		{"8E00", "e6d6d379-f507-44c2-a23c-238f2a3df928", true},
		{"FFFF", typeLinux, false}, {"83", typeLinux, false},
		{"4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", true},
	} {
		if got, known, err := gptType(c.written); got != c.want || known != c.known || err != nil {
			t.Errorf("gptType(%s) = %s, %v, %v", c.written, got, known, err)
		}
	}
}

// The list is that of the installed sgdisk.
func TestGPTTypesWithSgdisk(t *testing.T) {
	testenv.Need(t, "sgdisk")
	file := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, 300<<20); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(gptTypeList), "\n")
	for len(lines) > 0 {
		n := min(len(lines), gptMax)
		args := []string{file, "-o"}
		for i, l := range lines[:n] {
			args = append(args, "-n", fmt.Sprintf("%d:0:+1M", i+1), "-t", fmt.Sprintf("%d:%s", i+1, l[:4]))
		}
		if out, err := exec.Command("sgdisk", args...).CombinedOutput(); err != nil {
			t.Fatalf("sgdisk: %v\n%s", err, out)
		}
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table, err := gpt.Read(f, 300<<20, 512)
		if err != nil {
			t.Fatal(err)
		}
		for i, p := range table.Partitions {
			if p.Type != lines[i][5:] {
				t.Errorf("code %s is %s", lines[i], p.Type)
			}
		}
		lines = lines[n:]
	}
}
