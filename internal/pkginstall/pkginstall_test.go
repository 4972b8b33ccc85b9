package pkginstall

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/testenv"
)

// write makes an element of files: path → content.
func write(t testing.TB, name string, files map[string]string) *element.Element {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	for p, content := range files {
		p = filepath.Join(dir, p)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &element.Element{Name: name, Dir: dir}
}

// show is a plan in one line: "+" installs, "-" uninstalls.
func show(p Plan) string {
	var out []string
	for f := range facts(p) {
		f = strings.Replace(strings.Replace(f, " uninstall ", " -", 1), " install ", " +", 1)
		f, _, _ = strings.Cut(f, " for ")
		out = append(out, strings.Replace(f, "install.d ", "", 1))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

var testEnv = Environment{"ARCH": "ppc64le", "DIB_PYTHON_VERSION": "3", "DIB_INSTALLTYPE_my_app": "package", "V": "1", "W": "a b"}

// grammar is one element's file, what we make of it and what the original
// does: "" for the same, "fails", or its own result.
var grammar = []struct{ name, in, want, original string }{
	{"nothing behind the name", "a:\nb: ''\nc: {}\nd: []\ne: null", "+a +b +c +d +e", ""},
	{"phases", "a: {phase: pre-install.d}\nb: {phase: install.d}\nc: {phase: post-install.d}", "+b post-+c pre-+a", ""},
	{"nobody's phase", "a: {phase: root.d}", "root.d +a", ""},
	{"install type of the element", "a: {installtype: package}\nb: {installtype: source}", "+a", ""},
	{"architectures", "a: {arch: ppc64le}\nb: {arch: 'amd64,ppc64le'}\nc: {arch: amd64}\nd: {not-arch: ppc64le}\ne: {not-arch: 'amd64,i386'}", "+a +b +e", ""},
	{"blanks in the list", "a: {arch: 'ppc64, ppc64le'}\nb: {not-arch: 'ppc64, ppc64le'}", "+a", "+b"},
	{"empty architecture", "a: {arch: ''}", "+a", "fails"},
	{"Python as number and text", "a: {dib_python_version: 3}\nb: {dib_python_version: '3'}\nc: {dib_python_version: 2}", "+a +b", ""},
	{"when", "a: {when: V = 1}\nb: {when: V=1}\nc: {when: V != 1}\nd: {when: [V = 1, W = a b]}\ne: {when: [V != 1, W = a b]}\nf: {when: 'V =1'}", "+a +b +d +f", ""},
	{"empty list of conditions", "a: {when: []}", "+a", ""},
	{"conditions are not asked where others refuse", "a: {arch: amd64, when: NONE = 1}", "", ""},
	{"uninstall", "a: {uninstall: true}\nb: {build-only: true}", "+b -a -b", ""},
	{"naming uninstall is enough", "a: {uninstall: }\nb: {uninstall: 1}", "-a -b", ""},
	{"uninstall: False", "a: {uninstall: False}\nb: {build-only: no}\nc: {uninstall: 0}", "+a +b +c", "+b -a -b -c"},
	{"both", "a: {uninstall: true, build-only: true}", "+a -a", ""},
	{"a list", "a:\n- {arch: amd64, phase: pre-install.d}\n- {not-arch: amd64, phase: post-install.d}\n- {arch: ppc64le}", "+a post-+a", ""},
	{"what stays is not uninstalled", "a:\n- {}\n- {uninstall: true}\nb:\n- {build-only: true}\n- {}", "+a +b", "+a +b -a -b"},
	{"only what counts here keeps a package", "a:\n- {uninstall: true}\n- {arch: amd64}", "-a", ""},
	{"JSON", `{"a": null, "b": {"uninstall": true}, "c": ""}`, "+a +c -b", ""},
	{"JSON with tabs", "{\n\t\"a\": null\n}", "+a", ""},
	{"nothing", "# all comments\n", "", "fails"},
	{"names are text", "no: \n8E00: ", "+8E00 +no", "+8E00 +False"},
	{"options as anchors", "a: &x {phase: pre-install.d}\nb: *x\nc: {<<: *x, arch: ppc64le}", "pre-+a pre-+b pre-+c", ""},
}

func TestGrammar(t *testing.T) {
	var cases []oracleCase
	for _, c := range grammar {
		e := write(t, "my-app", map[string]string{"package-installs.yaml": c.in})
		plan, _, err := Squash([]*element.Element{e}, testEnv)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if got := show(plan); got != c.want {
			t.Errorf("%s: %q; want %q", c.name, got, c.want)
		}
		cases = append(cases, oracleCase{"my-app", filepath.Dir(e.Dir), testEnv})
	}
	t.Run("original", func(t *testing.T) {
		same := 0
		for i, plan := range originalNames(t, cases) {
			c := grammar[i]
			want := c.original
			if want == "" {
				want = c.want
				same++
			}
			if plan != want {
				t.Errorf("%s: the original says %q; the table %q", c.name, plan, want)
			}
		}
		testenv.Proof(t, testenv.Row{Matter: "package-installs, cases by hand", Equal: same,
			Different: []testenv.Difference{{Cases: len(grammar) - same, Why: "what the table below says"}}})
	})
}

// originalNames is original as show has it; package names that are no strings
// in the original's JSON are printed as Python does.
func originalNames(t *testing.T, cases []oracleCase) []string {
	t.Helper()
	var out []string
	for _, p := range original(t, cases) {
		if p == nil {
			out = append(out, "fails")
			continue
		}
		out = append(out, show(p))
	}
	return out
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"a: x":                                 "a: expected options, found text",
		"a: [x]":                               "a: expected options, found text",
		"a: false":                             "a: expected options, found true or false",
		"[a]":                                  "expected a mapping of package names, found a list",
		"a: {arch: x, not-arch: y}":            "a: has both arch and not-arch",
		"a: {arch: [x]}":                       "a: arch: expected one word, found a list",
		"a: {when: V}":                         `a: when: "V" is no condition`,
		"a: {when: ''}":                        `a: when: "" is no condition`,
		"a: {when: true}":                      `a: when: "true" is no condition`,
		"a: {when: NONE = 1}":                  "a: when: variable NONE is not set",
		"a: {when: [V != 1, NONE = 1]}":        "a: when: variable NONE is not set",
		"a: {uninstall: never}":                "a: uninstall: expected true or false, found text",
		"-a: ":                                 `"-a" is not a package name`,
		"a b: ":                                `"a b" is not a package name`,
		"a,b: ":                                `"a,b" is not a package name`,
		"a: {phase: {}}":                       "a: phase: expected one word, found a mapping",
		"a: {uninstall: true":                  "did not find expected ',' or '}'",
		"a: &x {<<: *x}":                       "alias *x stands inside its own anchor",
		"a:\n- {phase: install.d}\n- {arch: 1": "",
	} {
		e := write(t, "e", map[string]string{"package-installs.yaml": "# first\n" + in})
		_, _, err := Squash([]*element.Element{e}, testEnv)
		prefix := filepath.Join(e.Dir, "package-installs.yaml") + ":"
		if err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.HasSuffix(err.Error(), want) || command.Status(err) != command.StatusUsage {
			t.Errorf("%q: error %v; want %s", in, err, want)
		}
	}
	e := write(t, "e", map[string]string{"install.d/package-installs-e": "a\n\n--force\n"})
	if _, _, err := Squash([]*element.Element{e}, nil); err == nil || !strings.HasSuffix(err.Error(), `/package-installs-e:3: "--force" is not a package name`) {
		t.Errorf("a bad list: %v", err)
	}
	e = write(t, "e", map[string]string{"package-installs.yaml": "a: {arch: x}"})
	if _, _, err := Squash([]*element.Element{e}, nil); err == nil || !strings.Contains(err.Error(), "ARCH is not set") {
		t.Errorf("without ARCH: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	e := write(t, "e", map[string]string{"package-installs.yaml": "a:\n  not_arch: x\nb:\n  phase: intsall.d\nc:\n  when: V == 1\n"})
	_, warnings, err := Squash([]*element.Element{e}, testEnv)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(warnings, "\n")
	for _, want := range []string{`yaml:2: a: option "not_arch" has no effect`, `yaml:4: b: nothing is installed in phase "intsall.d"`, `yaml:6: c: when: compares V with "= 1"`} {
		if !strings.Contains(all, want) {
			t.Errorf("no warning %q in\n%s", want, all)
		}
	}
	if len(warnings) != 3 {
		t.Errorf("%d warnings", len(warnings))
	}
}

func TestMergeAndLists(t *testing.T) {
	elements := []*element.Element{
		write(t, "one", map[string]string{
			"package-installs.yaml": "a: {build-only: true}\nb: {uninstall: true}\nc:\n",
			"package-installs.json": `{"j": null}`,
			"pkg-map":               `{"family": {"redhat": {"a": "x y"}}}`,
		}),
		write(t, "two", map[string]string{
			"pkg-map":                                    `{"distro": {"fedora": {"a": ""}}}`,
			"package-installs.yaml":                      "a:\nc: {build-only: true}\nd: {phase: pre-install.d, uninstall: true}\n",
			"install.d/package-installs-two":             "# comment\nl1\n -l2 l3 # l4\n\n-c\nl5",
			"pre-install.d/package-installs-other":       "d\n",
			"install.d/package-installs-script":          "#!/bin/bash\nrm -rf x\n",
			"post-install.d/package-installs-dir/README": "x",
		}),
	}
	plan, _, err := Squash(elements, testEnv)
	if err != nil {
		t.Fatal(err)
	}
	want := Plan{
		"pre-install.d": {Install: []Entry{{"d", "other"}}},
		"install.d": {
			Install: []Entry{{"a", "one"}, {"c", "one"}, {"j", "one"}, {"a", "two"}, {"c", "two"}, {"l1", "two"}, {"l2", "two"}, {"l3", "two"}, {"l5", "two"}},
			// b is nobody's, l2 is only needed while building.
			Uninstall: []Entry{{"b", "one"}, {"l2", "two"}},
		},
	}
	if diff := cmp.Diff(want, plan); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(elements)
	again, _, err := Squash(elements, testEnv)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plan, again); diff != "" {
		t.Errorf("the order of elements matters:\n%s", diff)
	}
	for distro, want := range map[string]string{
		"debian": "a c d j l1 l2 l3 l5",
		"fedora": "c d j l1 l2 l3 l5 x y",
	} {
		names, err := plan.Install(elements, Environment{"DISTRO_NAME": distro})
		if err != nil || strings.Join(names, " ") != want {
			t.Errorf("%s: %v, %v; want %s", distro, names, err, want)
		}
	}
}

func TestReadPlan(t *testing.T) {
	plan := Plan{"install.d": {Install: []Entry{{"a", "one"}, {"b", "two"}}, Uninstall: []Entry{{"b", "two"}}}, "x.d": {}}
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	read, err := ReadPlan(file)
	if err != nil || cmp.Diff(plan, read) != "" {
		t.Errorf("written and read: %v\n%s", err, cmp.Diff(plan, read))
	}
	if err := os.WriteFile(file, []byte(`{"install.d": {"install": [["a"]]}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadPlan(file); err == nil || !strings.Contains(err.Error(), "found 1 words") {
		t.Errorf("half an entry: %v", err)
	}
}

// A package that some element wants to stay is never uninstalled; whatever is
// uninstalled somebody asked to be.
func TestStays(t *testing.T) {
	kinds := []string{"", "{uninstall: true}", "{build-only: true}"}
	rapid.Check(t, func(rt *rapid.T) {
		var elements []*element.Element
		plain, away := map[string]bool{}, map[string]bool{}
		for i := range rapid.IntRange(1, 4).Draw(rt, "elements") {
			var file strings.Builder
			for _, pkg := range rapid.SliceOfDistinct(rapid.SampledFrom([]string{"a", "b", "c"}), rapid.ID[string]).Draw(rt, "packages") {
				kind := rapid.IntRange(0, 2).Draw(rt, "kind")
				fmt.Fprintf(&file, "%s: %s\n", pkg, kinds[kind])
				plain[pkg], away[pkg] = plain[pkg] || kind == 0, away[pkg] || kind > 0
			}
			elements = append(elements, write(t, fmt.Sprintf("e%d", i), map[string]string{"package-installs.yaml": file.String()}))
		}
		plan, _, err := Squash(elements, testEnv)
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]bool{}
		for _, e := range plan["install.d"].Uninstall {
			got[e.Package] = true
		}
		for _, pkg := range []string{"a", "b", "c"} {
			if got[pkg] != (away[pkg] && !plain[pkg]) {
				rt.Fatalf("%s: uninstalled %v, asked %v, wanted to stay %v", pkg, got[pkg], away[pkg], plain[pkg])
			}
		}
	})
}

func TestInstallBadMap(t *testing.T) {
	for in, want := range map[string]string{
		"{":                           "/e/pkg-map: the JSON value is not complete",
		`{"default": {"a": "b --x"}}`: `/e/pkg-map: "--x" is not a package name`,
	} {
		e := write(t, "e", map[string]string{"package-installs.yaml": "a:", "pkg-map": in})
		plan, _, err := Squash([]*element.Element{e}, testEnv)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plan.Install([]*element.Element{e}, testEnv); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("error %v; want %s", err, want)
		}
	}
}

func FuzzSquash(f *testing.F) {
	for _, c := range grammar {
		f.Add(c.in)
	}
	e := write(f, "e", nil)
	if err := os.MkdirAll(e.Dir, 0o755); err != nil {
		f.Fatal(err)
	}
	file := filepath.Join(e.Dir, "package-installs.yaml")
	f.Fuzz(func(t *testing.T, in string) {
		if err := os.WriteFile(file, []byte(in), 0o644); err != nil {
			t.Fatal(err)
		}
		plan, _, err := Squash([]*element.Element{e}, testEnv)
		if err != nil {
			if !strings.HasPrefix(err.Error(), file+":") {
				t.Errorf("error without a place: %v", err)
			}
			return
		}
		for phase, acts := range plan {
			for _, list := range [][]Entry{acts.Install, acts.Uninstall} {
				if !slices.IsSortedFunc(list, compare) || slices.Contains(list, Entry{"", "e"}) {
					t.Errorf("%s: %v", phase, list)
				}
			}
		}
	})
}
