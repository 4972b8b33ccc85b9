package svcmap

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/testenv"
)

const dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// elements makes one element for each svc-map file: e0, e1, ...
func elements(t testing.TB, files ...string) []*element.Element {
	t.Helper()
	dir := t.TempDir()
	var out []*element.Element
	for i, content := range files {
		name := fmt.Sprintf("e%d", i)
		write(t, filepath.Join(dir, name, "svc-map"), content)
		out = append(out, &element.Element{Name: name, Dir: filepath.Join(dir, name)})
	}
	return out
}

// oracle calls the original's merge on elements with svc-map files, and reads
// back what it wrote; "fails" when it refused.
const oracle = `
import importlib.machinery, importlib.util, json, os, sys, tempfile, yaml
sys.dont_write_bytecode = True
def module(path):
    loader = importlib.machinery.SourceFileLoader("m", path)
    mod = importlib.util.module_from_spec(importlib.util.spec_from_loader("m", loader))
    loader.exec_module(mod)
    return mod
mod = module(sys.argv[1])
tempfile.tempdir = sys.argv[2]
mnt = tempfile.mkdtemp()
os.mkdir(mnt + "/tmp")
os.environ["TMP_MOUNT_PATH"] = mnt
results, stdout = [], sys.stdout
sys.stdout = sys.stderr
for case in json.load(sys.stdin):
    paths = {}
    for i, content in enumerate(case["files"]):
        d = tempfile.mkdtemp()
        open(d + "/svc-map", "w").write(content)
        paths["e%d" % i] = d
    os.environ["IMAGE_ELEMENT_YAML"] = yaml.dump(paths)
    os.environ["DISTRO_NAME"] = case["distro"]
    try:
        mod.main()
        results.append(yaml.safe_load(open(mnt + "/tmp/svc-map-services")))
    except (Exception, SystemExit): results.append("fails")
json.dump(results, stdout)
`

type oracleCase struct {
	Files  []string `json:"files"`
	Distro string   `json:"distro"`
}

func original(t *testing.T, cases []oracleCase) []any {
	t.Helper()
	script := filepath.Join(dibElements, "svc-map/extra-data.d/10-merge-svc-map-files")
	testenv.NeedFile(t, script)
	var out []any
	testenv.Python(t, oracle, cases, &out, nil, script, t.TempDir())
	return out
}

const nova = `nova-api:
  default: openstack-nova-api
  debian: nova-api
nova-cert:
  suse: suse-cert
  redhat: redhat-cert
  fedora: fedora-cert
nova-plain: {}
`

var tables = []struct{ name, distro, in, want, original string }{
	{"distribution", "debian", nova, "map[nova-api:nova-api nova-cert:nova-cert nova-plain:nova-plain]", ""},
	{"family", "ubuntu", nova, "map[nova-api:nova-api nova-cert:nova-cert nova-plain:nova-plain]", ""},
	{"family of another", "centos", nova, "map[nova-api:openstack-nova-api nova-cert:redhat-cert nova-plain:nova-plain]", ""},
	{"distribution before family", "fedora", nova, "map[nova-api:openstack-nova-api nova-cert:fedora-cert nova-plain:nova-plain]", ""},
	{"default", "gentoo", nova, "map[nova-api:openstack-nova-api nova-cert:nova-cert nova-plain:nova-plain]", ""},
	{"families of later versions", "rocky", nova, "map[nova-api:openstack-nova-api nova-cert:redhat-cert nova-plain:nova-plain]",
		"map[nova-api:openstack-nova-api nova-cert:nova-cert nova-plain:nova-plain]"},
	{"nothing as a name", "debian", "s: {debian: }", "map[s:s]", "map[s:<nil>]"},
	{"an empty name", "debian", "s: {debian: ''}", "map[s:s]", "map[s:]"},
	{"an empty file", "debian", "# none\n", "map[]", "fails"},
	{"names are text", "debian", "s: {debian: on, default: 08}", "map[s:on]", "map[s:true]"},
	{"text instead of a mapping", "debian", "s: debian", "refused", "fails"},
	{"nothing instead of a mapping", "debian", "s: ", "refused", "fails"},
	{"a list", "debian", "[s]", "refused", "fails"},
}

func TestMerge(t *testing.T) {
	var cases []oracleCase
	for _, c := range tables {
		table, err := Merge(elements(t, c.in), c.distro)
		got := fmt.Sprint(table)
		if err != nil {
			if got = "refused"; !strings.Contains(err.Error(), "svc-map:1: ") || command.Status(err) != command.StatusUsage {
				t.Errorf("%s: %v", c.name, err)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s; want %s", c.name, got, c.want)
		}
		cases = append(cases, oracleCase{[]string{c.in}, c.distro})
	}
	t.Run("original", func(t *testing.T) {
		same := 0
		for i, r := range original(t, cases) {
			c := tables[i]
			want := c.original
			if want == "" || c.want == "refused" && want == "fails" {
				same++
			}
			if want == "" {
				want = c.want
			}
			if got := fmt.Sprint(r); got != want {
				t.Errorf("%s: the original says %s; the table %s", c.name, got, want)
			}
		}
		testenv.Proof(t, testenv.Row{Matter: "svc-map, cases by hand", Equal: same,
			Different: []testenv.Difference{
				{Cases: len(tables) - same, Why: "families as in later versions, names that YAML takes for no text"},
			}})
	})
}

// The same service in two elements.
func TestMergeTwice(t *testing.T) {
	_, err := Merge(elements(t, "a: {}\nb: {}\n", "c: {}\nb: {}\n"), "debian")
	if err == nil || !strings.HasSuffix(err.Error(), "e1/svc-map:2: service b: element e0 names it too") {
		t.Errorf("error %v", err)
	}
	if got := original(t, []oracleCase{{[]string{"a: {}\nb: {}\n", "c: {}\nb: {}\n"}, "debian"}}); got[0] != "fails" {
		t.Errorf("the original: %v", got)
	}
}

// Generated files, by several elements, for every distribution.
func TestOracleMerge(t *testing.T) {
	distros := []string{"centos", "centos7", "debian", "fedora", "gentoo", "opensuse", "rhel", "rhel7", "ubuntu", "mystery"}
	keys := append([]string{"default", "redhat", "debian", "suse"}, distros...)
	generate := rapid.Custom(func(t *rapid.T) oracleCase {
		c := oracleCase{Distro: rapid.SampledFrom(distros).Draw(t, "distro")}
		for range rapid.IntRange(1, 3).Draw(t, "elements") {
			var b strings.Builder
			for range rapid.IntRange(1, 3).Draw(t, "services") {
				fmt.Fprintf(&b, "svc-%d:\n", rapid.IntRange(0, 12).Draw(t, "service"))
				for i, k := range rapid.SliceOfNDistinct(rapid.SampledFrom(keys), 1, 5, rapid.ID[string]).Draw(t, "keys") {
					fmt.Fprintf(&b, "  %s: name-%d\n", k, i)
				}
			}
			c.Files = append(c.Files, b.String())
		}
		return c
	})
	var cases []oracleCase
	for seed := range 400 {
		cases = append(cases, generate.Example(seed))
	}
	equal, refused := 0, 0
	for i, theirs := range original(t, cases) {
		ours, err := Merge(elements(t, cases[i].Files...), cases[i].Distro)
		got := fmt.Sprint(ours)
		if err != nil {
			got = "fails"
			refused++
		} else {
			equal++
		}
		if want := fmt.Sprint(theirs); got != want {
			t.Errorf("%v:\n         ours %s\nthe original %s", cases[i], got, want)
		}
	}
	testenv.Proof(t, testenv.Row{Matter: "svc-map, generated merges", Equal: equal, Refused: refused})
}

func TestLookup(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, "lib/systemd/system/unit.service"), "")
	write(t, filepath.Join(root, "etc/init/job.conf"), "")
	file := write(t, filepath.Join(root, File), "unit: x\njob: x\nmapped: real\nempty: \n'on': 08\n")
	table, err := Read(file)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{"unit": "unit", "job": "job", "mapped": "real", "unmapped": "unmapped", "empty": "empty", "on": "08"} {
		if got := table.Lookup(root, in); got != want {
			t.Errorf("Lookup(%q) = %q; want %q", in, got, want)
		}
	}
	if table, err := Read(filepath.Join(root, "none")); err != nil || table.Lookup(root, "s") != "s" {
		t.Errorf("no table: %v, %v", table, err)
	}
	if table, err := Read(write(t, filepath.Join(root, "empty"), "")); err != nil || len(table) != 0 {
		t.Errorf("an empty table: %v, %v", table, err)
	}
	if _, err := Read(write(t, filepath.Join(root, "bad"), "a: [b]")); err == nil || !strings.Contains(err.Error(), "bad:1: service a") {
		t.Errorf("a bad table: %v", err)
	}
}

// Whatever the names are, the written table is read back as it was.
func TestBytes(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.OneOf(rapid.SampledFrom([]string{"on", "08", "0755", "nova-api", "a: b", "-", "~", "2020-01-01", "x@y.service", `"`, "é", "\t"}), rapid.StringMatching(`[ -~]{1,12}`))
		table := Table(rapid.MapOf(word, word).Draw(rt, "table"))
		got, err := Read(write(t, filepath.Join(dir, "t"), string(table.Bytes())))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(table, got); diff != "" {
			rt.Fatal(diff)
		}
	})
	if got := string(Table{"b": "no", "a": "x"}.Bytes()); got != "a: x\nb: \"no\"\n" {
		t.Errorf("Bytes = %q", got)
	}
}

func FuzzMerge(f *testing.F) {
	for _, c := range tables {
		f.Add(c.in)
	}
	e := elements(f, "")[0]
	file := filepath.Join(e.Dir, "svc-map")
	f.Fuzz(func(t *testing.T, in string) {
		write(t, file, in)
		table, err := Merge([]*element.Element{e}, "debian")
		if err != nil {
			if !strings.HasPrefix(err.Error(), file+":") {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		for service, name := range table {
			if name == "" && service != "" {
				t.Errorf("service %q has no name", service)
			}
		}
	})
}
