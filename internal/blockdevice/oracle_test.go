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
	"testing"

	"pgregory.net/rapid"

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
