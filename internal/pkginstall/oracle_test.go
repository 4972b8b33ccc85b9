package pkginstall

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/element"
	"goldsmith/internal/testenv"
)

var exhaustive = flag.Bool("exhaustive", false, "compare with the original over the full product, not a sample")

const dibElements = "/usr/lib/python3/dist-packages/diskimage_builder/elements"

// driver calls the original's main once for each case, with the case's
// environment. Parsed YAML is kept, so that many cases do not take for ever.
const driver = `
import importlib.machinery, importlib.util, json, os, sys, tempfile
import yaml
script, base = sys.argv[1], dict(os.environ)
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("squash", script)
mod = importlib.util.module_from_spec(importlib.util.spec_from_loader("squash", loader))
loader.exec_module(mod)
mod.logging_config.setup = lambda: None
load, kept = yaml.safe_load, {}
def safe_load(f):
    if f.name not in kept: kept[f.name] = load(f)
    return kept[f.name]
mod.yaml.safe_load = safe_load
out = os.path.join(tempfile.mkdtemp(), "out.json")
results, stdout = [], sys.stdout
for case in json.load(sys.stdin):
    os.environ.clear(); os.environ.update(case["env"])
    sys.argv = ["squash", "--elements", case["elements"], "--path", case["path"], out]
    sys.stdout = sys.stderr
    try:
        mod.main()
        plan = json.load(open(out))
        results.append({p: {op: [[str(pkg), e] for pkg, e in l] for op, l in acts.items()} for p, acts in plan.items()})
    except (Exception, SystemExit) as e:
        results.append(None)
json.dump(results, stdout)
`

type oracleCase struct {
	Elements string            `json:"elements"`
	Path     string            `json:"path"`
	Env      map[string]string `json:"env"`
}

// original runs the original over cases. A nil plan means that it failed.
func original(t *testing.T, cases []oracleCase) []Plan {
	t.Helper()
	script := filepath.Join(dibElements, "package-installs/bin/package-installs-squash")
	testenv.NeedFile(t, script)
	var plans []Plan
	testenv.Python(t, driver, cases, &plans, nil, script)
	return plans
}

// dib returns the original's elements.
func dib(t *testing.T) []*element.Element {
	t.Helper()
	testenv.NeedFile(t, dibElements)
	dirs, err := os.ReadDir(dibElements)
	if err != nil {
		t.Fatal(err)
	}
	var all []*element.Element
	for _, d := range dirs {
		if d.IsDir() {
			all = append(all, &element.Element{Name: d.Name(), Dir: filepath.Join(dibElements, d.Name())})
		}
	}
	return all
}

// dimensions is what entries of the original's elements depend on.
var dimensions = []struct {
	name   string
	values []string
}{
	{"ARCH", []string{"amd64", "x86_64", "i386", "i686", "arm64", "aarch64", "armhf", "ppc64", "ppc64el", "ppc64le", "s390x"}},
	{"DIB_DEFAULT_INSTALLTYPE", []string{"source", "package", "repo"}},
	{"DIB_RELEASE", []string{"xenial", "bionic", "focal", "jammy", "bullseye", "bookworm", "7", "8", "9-stream"}},
	{"DIB_PYTHON_VERSION", []string{"2", "3"}},
	{"DIB_UBUNTU_KERNEL", []string{"linux-image-generic", "linux-image-hwe", "linux-image-kvm", "linux-image-virtual"}},
	{"DIB_SIMPLE_INIT_NETWORKMANAGER", []string{"0", "1"}},
	{"DIB_INSTALLTYPE_simple_init", []string{"", "package", "source", "repo"}},
}

// environments is a sample of the product of dimensions, or all of it.
func environments() []Environment {
	total := 1
	for _, d := range dimensions {
		total *= len(d.values)
	}
	picks := make([]int, total)
	for i := range picks {
		picks[i] = i
	}
	if !*exhaustive {
		picks = rand.New(rand.NewPCG(1, 2)).Perm(total)[:150]
	}
	var out []Environment
	for _, i := range picks {
		env := Environment{}
		for _, d := range dimensions {
			if v := d.values[i%len(d.values)]; v != "" {
				env[d.name] = v
			}
			i /= len(d.values)
		}
		out = append(out, env)
	}
	return out
}

// facts flattens a plan.
func facts(p Plan) map[string]bool {
	out := map[string]bool{}
	for phase, acts := range p {
		for _, e := range acts.Install {
			out[phase+" install "+e.Package+" for "+e.Element] = true
		}
		for _, e := range acts.Uninstall {
			out[phase+" uninstall "+e.Package+" for "+e.Element] = true
		}
	}
	return out
}

// differences lists what only one of two plans does, without what is left out
// because another element wants the package to stay: the original does that
// since a later version than the one compared with.
func differences(ours, theirs Plan) (list []string, kept int) {
	a, b := facts(ours), facts(theirs)
	for f := range a {
		if !b[f] {
			list = append(list, "only ours: "+f)
		}
	}
	for phase, acts := range theirs {
		for _, e := range acts.Uninstall {
			if a[phase+" uninstall "+e.Package+" for "+e.Element] {
				continue
			}
			if stays(ours[phase], e.Package) {
				kept++
				continue
			}
			list = append(list, "only the original: "+phase+" uninstall "+e.Package+" for "+e.Element)
		}
		for _, e := range acts.Install {
			if f := phase + " install " + e.Package + " for " + e.Element; !a[f] {
				list = append(list, "only the original: "+f)
			}
		}
	}
	slices.Sort(list)
	return list, kept
}

func stays(p Phase, pkg string) bool {
	is := func(e Entry) bool { return e.Package == pkg }
	return slices.ContainsFunc(p.Install, is) && !slices.ContainsFunc(p.Uninstall, is)
}

// All of the original's elements at once, and each alone.
func TestOracleElements(t *testing.T) {
	all := dib(t)
	var names []string
	for _, e := range all {
		names = append(names, e.Name)
	}
	kept, alone, entries, count := 0, 0, 0, 0
	for envs := range slices.Chunk(environments(), 500) {
		var cases []oracleCase
		for _, env := range envs {
			cases = append(cases, oracleCase{strings.Join(names, " "), dibElements, env})
		}
		for i, theirs := range original(t, cases) {
			ours, warnings, err := Squash(all, envs[i])
			if err != nil || len(warnings) != 0 {
				t.Fatalf("%v: %v %v", envs[i], err, warnings)
			}
			diff, k := differences(ours, theirs)
			if len(diff) > 0 {
				t.Fatalf("%v:\n%s", envs[i], strings.Join(diff, "\n"))
			}
			kept += k
			entries += len(facts(ours))
			if count++; i%20 != 0 {
				continue
			}
			for _, e := range all {
				compareAlone(t, e, envs[i], theirs)
				alone++
			}
		}
	}
	testenv.Proof(t, testenv.Row{
		Matter: "package-installs, all elements: entries over all environments", Equal: entries, Sample: !*exhaustive,
		Different: []testenv.Difference{
			{Cases: kept, Why: "a package that another element plainly wants is not uninstalled, as in later versions"},
		},
		Note: fmt.Sprintf("%d environments, %d elements; %d elements alone are equal", count, len(all), alone),
	})
}

// compareAlone compares one element's plan with its part of the original's.
func compareAlone(t *testing.T, e *element.Element, env Environment, theirs Plan) {
	t.Helper()
	ours, _, err := Squash([]*element.Element{e}, env)
	if err != nil {
		t.Fatal(err)
	}
	others := func(x Entry) bool { return x.Element != e.Name }
	part := Plan{}
	for phase, acts := range theirs {
		part[phase] = Phase{
			Install:   slices.DeleteFunc(slices.Clone(acts.Install), others),
			Uninstall: slices.DeleteFunc(slices.Clone(acts.Uninstall), others),
		}
	}
	if diff, _ := differences(ours, part); len(diff) > 0 {
		t.Errorf("%s, %v:\n%s", e.Name, env, strings.Join(diff, "\n"))
	}
}

// Without the variables that when options name, both refuse the same elements.
func TestOracleUnset(t *testing.T) {
	all := dib(t)
	env := Environment{"ARCH": "amd64", "DIB_PYTHON_VERSION": "3"}
	var cases []oracleCase
	for _, e := range all {
		cases = append(cases, oracleCase{e.Name, dibElements, env})
	}
	refused := 0
	for i, theirs := range original(t, cases) {
		ours, _, err := Squash(all[i:i+1], env)
		if (theirs == nil) != (err != nil) {
			t.Errorf("%s: ours %v (%v), the original's %v", all[i].Name, ours, err, theirs)
		}
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), "is not set") {
				t.Errorf("%s: %v", all[i].Name, err)
			}
		}
	}
	if refused == 0 {
		t.Error("no element depends on a variable")
	}
}
