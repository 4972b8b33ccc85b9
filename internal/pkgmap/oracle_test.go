package pkgmap

import (
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

const dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"

// driver calls the original's main with one argument list after the other.
const driver = `
import importlib.machinery, importlib.util, io, json, logging, os, sys
script = sys.argv[1]
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("m", script)
mod = importlib.util.module_from_spec(importlib.util.spec_from_loader("m", loader))
loader.exec_module(mod)
logging.disable()
results, stdout = [], sys.stdout
for args in json.load(sys.stdin):
    sys.argv, sys.stdout = ["m"] + args, io.StringIO()
    try: mod.main(); status = 0
    except SystemExit as e: status = e.code
    except Exception: status = 1
    results.append([status, sys.stdout.getvalue()])
json.dump(results, stdout)
`

type result struct {
	status int
	out    string
}

func original(t *testing.T, cases [][]string) []result {
	t.Helper()
	script := filepath.Join(dibElements, "pkg-map/bin/pkg-map")
	testenv.NeedFile(t, script)
	var raw [][2]any
	testenv.Python(t, driver, cases, &raw, nil, script)
	var out []result
	for _, r := range raw {
		out = append(out, result{int(r[0].(float64)), r[1].(string)})
	}
	return out
}

// newFamilies are distributions that the version compared with does not count
// to a family, and later ones do.
var newFamilies = []string{"almalinux", "openeuler", "rocky"}

// Every map of the original's elements for every distribution.
func TestOracleMaps(t *testing.T) {
	testenv.NeedFile(t, dibElements)
	files, err := filepath.Glob(dibElements + "/*/pkg-map")
	if err != nil {
		t.Fatal(err)
	}
	distros := slices.Concat(newFamilies, []string{"centos", "centos7", "debian", "fedora", "gentoo", "mystery", "opensuse", "rhel", "rhel7", "ubuntu"})
	releases := []string{"7", "8", "8-stream", "9-stream", "bullseye", "bookworm", "jammy"}
	var cases [][]string
	var ours []result
	for _, file := range files {
		m, err := Read(file)
		if err != nil {
			t.Fatal(err)
		}
		packages := append(slices.Sorted(maps.Keys(m.all())), "not-in-any-map")
		for _, distro := range distros {
			for _, rel := range releases {
				for _, missing := range []bool{false, true} {
					args := []string{"--pkg-map", file, "--distro", distro, "--release", rel, "--prefix", "="}
					if missing {
						args = append(args, "--missing-ok")
					}
					cases = append(cases, append(args, packages...))
					ours = append(ours, run(t, m, distro, rel, packages, missing))
				}
			}
		}
	}
	equal, different := 0, 0
	for i, theirs := range original(t, cases) {
		switch {
		case ours[i] == theirs:
			equal++
		case slices.Contains(newFamilies, cases[i][3]):
			different++
		default:
			t.Errorf("%q:\n         ours %v\nthe original %v", cases[i], ours[i], theirs)
		}
	}
	testenv.Proof(t, testenv.Row{
		Matter: "pkg-map: all maps, every distribution and release", Equal: equal,
		Different: []testenv.Difference{
			{Cases: different, Why: "almalinux, openeuler and rocky belong to the redhat family, as in later versions"},
		},
	})
}

func run(t *testing.T, m *Map, distro, rel string, packages []string, missing bool) result {
	t.Helper()
	var r result
	lines, err := m.Translate(distro, rel, packages, missing)
	for _, l := range lines {
		r.out += "=" + l + "\n"
	}
	if _, ok := errors.AsType[*Unmapped](err); ok {
		r.status = 1
	} else if err != nil {
		t.Error(err)
	}
	return r
}

// all is every package that the map has in some section.
func (m *Map) all() names {
	out := maps.Clone(m.Default)
	if out == nil {
		out = names{}
	}
	sections := slices.Concat(slices.Collect(maps.Values(m.Family)), slices.Collect(maps.Values(m.Distro)))
	for _, releases := range m.Release {
		sections = append(sections, slices.Collect(maps.Values(releases))...)
	}
	for _, s := range sections {
		maps.Copy(out, s)
	}
	return out
}

func TestOracleFamilies(t *testing.T) {
	const file = `{"family": {"redhat": {"p": "redhat"}, "debian": {"p": "debian"}, "suse": {"p": "suse"}, "gentoo": {"p": "gentoo"}}}`
	m, err := Parse("f", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var cases [][]string
	var distros []string
	for _, members := range families {
		distros = append(distros, members...)
	}
	writeFile(t, filepath.Join(dir, "m"), file)
	for _, d := range distros {
		cases = append(cases, []string{"--pkg-map", filepath.Join(dir, "m"), "--distro", d, "--missing-ok", "p"})
	}
	for i, theirs := range original(t, cases) {
		got, _ := m.Lookup(distros[i], "", "p")
		if want := strings.TrimSpace(theirs.out); got != want && !slices.Contains(newFamilies, distros[i]) {
			t.Errorf("%s: %s; the original %s", distros[i], got, want)
		}
	}
}
