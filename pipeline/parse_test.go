package pipeline

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"goldsmith/internal/evidence"
	"goldsmith/internal/yamlfile"
)

const header = "apiVersion: goldsmith/v1\nname: t\n"

func parse(text string, inputs map[string]string) (*Pipeline, error) {
	return Parse("f", []byte(header+text), inputs, []string{"fake", "build", "smoke", "promote"})
}

// shape says of each stage what it needs.
func shape(p *Pipeline) string {
	var out []string
	for _, s := range p.Stages {
		t := s.Name + "<" + strings.Join(s.Needs, ",")
		if s.Skip != "" {
			t += " (" + s.Skip + ")"
		}
		out = append(out, t)
	}
	return strings.Join(out, "; ")
}

func TestExpansion(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"needs by default", "stages:\n- {name: a, uses: fake}\n- {name: b, uses: fake}\n- {name: c, uses: fake, needs: []}\n",
			"a<; b<a; c<"},
		{"a stage's matrix", `stages:
- {name: build, uses: build}
- {name: smoke, uses: smoke, matrix: {axes: {firmware: [uefi, bios]}}}
- {name: promote, uses: promote}
`, "build<; smoke-uefi<build; smoke-bios<build; promote<smoke-uefi,smoke-bios"},
		{"the pipeline's matrix and a stage's", `matrix: {axes: {release: [bookworm, trixie]}}
stages:
- {name: build, uses: build}
- {name: smoke, uses: smoke, matrix: {axes: {firmware: [uefi, bios]}, exclude: [{release: trixie, firmware: bios}]}}
- {name: promote, uses: promote}
- {name: all, uses: fake, matrix: {}}
`, "build-bookworm<; build-trixie<; smoke-bookworm-uefi<build-bookworm; smoke-bookworm-bios<build-bookworm; " +
			"smoke-trixie-uefi<build-trixie; promote-bookworm<smoke-bookworm-uefi,smoke-bookworm-bios; " +
			"promote-trixie<smoke-trixie-uefi; all<promote-bookworm,promote-trixie"},
		{"include", `stages:
- name: s
  uses: fake
  matrix: {axes: {arch: [amd64], version: ["3.10"]}, include: [{arch: arm64, version: "3.9"}]}
- {name: one, uses: fake, needs: [s-arm64-3-9]}
`, "s-amd64-3-10<; s-arm64-3-9<; one<s-arm64-3-9"},
		{"references in needs", `stages:
- {name: a-x, uses: fake}
- {name: a-y, uses: fake, needs: []}
- {name: b, uses: fake, needs: ["a-${matrix.m}"], matrix: {axes: {m: [x, y]}}}
`, "a-x<; a-y<; b-x<a-x; b-y<a-y"},
		{"when", `inputs: {branch: {default: main}}
stages:
- {name: build, uses: build}
- {name: metal, uses: smoke, when: {branch: ["release/*", "v?"]}}
- {name: also, uses: smoke, needs: [metal], when: {branch: ["x/**"]}}
- {name: promote, uses: promote, needs: [build, also]}
`, `build<; metal<build (input branch is "main": the stage is for release/*, v?); ` +
			`also<build (input branch is "main": the stage is for x/**); promote<build`},
	} {
		p, err := parse(c.text, nil)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := shape(p); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

const whole = `inputs:
  commit: {description: what is built, pattern: "[0-9a-f]{7,40}", default: "1234567"}
  branch: {default: main}
  memory: {type: number, default: "512"}
concurrency: {group: "${input.branch}", supersede: true}
timeout: 4h
defaults:
  timeout: 20m
  retry: {infra: 2, delay: 30s}
  requires: [kvm]
  artifacts:
  - {files: ["*.log"], keep: {passed: 7d, failed: 8w}}
stages:
- name: smoke
  uses: smoke
  matrix: {axes: {arch: [amd64, arm64], cpus: [2]}}
  if: always
  timeout: 5m
  retry: {flake: 1, infra: 0}
  requires: ["arch=${matrix.arch}"]
  with: &w
    commit: ${input.commit}
    note: "of ${input.branch} on ${matrix.arch}, $${HOME} $HOME"
    cpus: ${matrix.cpus}
    memory: "${input.memory}"
    list: [{a: "${matrix.arch}"}]
- name: again
  uses: fake
  with: {<<: *w, note: x, arch: "${input.branch}", commit: y, cpus: 3}
`

func TestWhole(t *testing.T) {
	_, err := parse(whole, nil)
	if want := "f:25: stage again: ${matrix.arch}: the stage has no such axis"; err == nil || err.Error() != want {
		t.Errorf("an alias with references to another stage's matrix: %v; want %s", err, want)
	}
	p, err := parse(whole[:strings.Index(whole, "- name: again")], map[string]string{"branch": "fix/1"})
	if err != nil {
		t.Fatal(err)
	}
	if p.Group != "fix/1" || !p.Supersede || p.Timeout != 4*time.Hour {
		t.Errorf("group %q, supersede %v, timeout %v", p.Group, p.Supersede, p.Timeout)
	}
	want := Stage{Name: "smoke-arm64-2", Template: "smoke", Uses: "smoke", Needs: []string{}, If: IfAlways,
		Matrix: map[string]string{"arch": "arm64", "cpus": "2"}, Timeout: 5 * time.Minute,
		Retry:      map[evidence.Class]int{evidence.Infra: 0, evidence.Flake: 1},
		RetryDelay: 30 * time.Second, Requires: []string{"arch=arm64", "kvm"},
		Artifacts: []Artifact{{[]string{"*.log"}, 7 * 24 * time.Hour, 56 * 24 * time.Hour}}}
	if d := cmp.Diff(want, p.Stages[1], cmpopts.IgnoreFields(Stage{}, "With"), cmpopts.IgnoreUnexported(Stage{})); d != "" {
		t.Error(d)
	}
	var w struct {
		Commit, Note string
		CPUs         int `yaml:"cpus"`
		Memory       int
		List         []map[string]any
	}
	if err := p.DecodeWith("smoke-arm64-2", &w); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(w), "{1234567 of fix/1 on arm64, ${HOME} $HOME 2 512 [map[a:arm64]]}"; got != want {
		t.Errorf("with = %s; want %s", got, want)
	}
	for file, want := range map[string]time.Duration{"build.log": 7 * 24 * time.Hour, "x/build.log": Forever, "junit.xml": Forever} {
		if got := p.Stages[0].Keep(file, true); got != want {
			t.Errorf("Keep(%s) = %v; want %v", file, got, want)
		}
	}
	// Text stays text, whatever it looks like.
	q, err := parse("inputs: {c: {default: '1e3'}}\nstages: [{name: a, uses: fake, with: {v: \"${input.c}\"}}]\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ V any }
	if err := q.DecodeWith("a", &v); err != nil || v.V != "1e3" {
		t.Errorf("an input as a value is %#v, %v", v.V, err)
	}
}

// The line of each fault, all at once.
func TestAllProblems(t *testing.T) {
	_, err := parse(`inputs:
  Commit: {}
  api-token: {}
  n: {type: number, default: x}
  need: {}
matrix:
  axes: {a: [x, x], b: y}
stages:
- name: one
  uses: nothing
  needs: [two, "${matrix.q}"]
  retry: {infra: 99, bad: 1, delay: soon}
- name: two
  uses: fake
  if: maybe
  timeout: 0s
  requires: [KVM]
  when: {nix: [a]}
  artifacts: [{files: [], keep: {passed: 3y}}]
  with: {v: "${input.nothing}", w: "${unclosed"}
  oops: 1
- {name: three, uses: fake, matrix: {axes: {a: [z]}, exclude: [{a: q}]}}
channels:
- {name: C}
`, map[string]string{"other": "1"})
	var got []string
	for _, p := range yamlfile.Of(err) {
		got = append(got, fmt.Sprintf("%d: %s", p.Line, p.Message))
	}
	for _, want := range []string{
		`4: no input "other": it has Commit, api-token, n, need`, `4: input "Commit": a name has lower case letters`, "5: input api-token: inputs are kept and shown",
		`6: input n: its default "x" is not a whole number`, "7: input need has no value: give it with --set need=VALUE",
		"9: axis a: x is there twice", "9: axis b: expected a list", `12: stage one: uses "nothing"`,
		"13: stage one-x: ${matrix.q}: the stage has no such axis, but a", `14: stage one: retry infra "99": expected 0 to 10`, "14: stage one: retry bad: expected",
		`14: stage one: delay "soon"`, `17: stage two: if "maybe"`, `18: stage two-x: timeout "0s"`, `19: stage two-x: requires "KVM"`,
		"20: when: nix is not one of the file's inputs", "21: stage two: files: expected patterns", `21: stage two: keep "3y"`,
		"22: stage two-x: ${input.nothing}: the file has no such input", `23: unknown field "oops"`,
		"24: axis a: the pipeline's matrix has it already", "24: no cell of the matrix is a=q", `26: channel name "C"`,
	} {
		found := false
		for _, g := range got {
			found = found || strings.HasPrefix(g, want)
		}
		if !found {
			t.Errorf("nothing says %q", want)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(got, "\n"))
	}
}

func TestParseErrors(t *testing.T) {
	many := "stages:\n- {name: s, uses: fake, matrix: {axes: {a: [" + numbers(30) + "], b: [" + numbers(30) + "]}}}\n"
	for _, c := range []struct{ text, want string }{
		{"inputs: {c: {pattern: '[0-9]+'}}\nstages: [{name: a, uses: fake}]\n", `f:3: input c: the value "x" does not fit [0-9]+`},
		{many, "f:4: the matrix has more than 500 cells"},
		{"matrix: {axes: {a: [" + numbers(300) + "]}}\nstages: [{name: a, uses: fake}, {name: b, uses: fake}]\n", "f:4: more than 500 stages, matrices multiplied out"},
		{"stages:\n- {name: a-x, uses: fake}\n- {name: a, uses: fake, matrix: {axes: {m: [x]}}}\n", "f:5: stages a-x and a both have one called a-x"},
		{"stages:\n- {name: a, uses: fake, matrix: {axes: {m: [x.y, x-y]}}}\n", "f:4: stage a: two cells of its matrix are called a-x-y"},
		{"stages:\n- {name: a, uses: fake, matrix: {axes: {m: [x]}}}\n- {name: b, uses: fake, matrix: {axes: {m: [y]}}}\n", "f:5: stage b needs a, of which no cell has its m=y"},
		{"stages:\n- {name: a, uses: fake, needs: [b], matrix: {axes: {m: [x, y]}}}\n- {name: b, uses: fake}\n", "f:4: stage a-x needs itself, directly or through others"},
		{"stages:\n- {name: a, uses: fake, matrix: {include: [{m: x}]}}\n", "f:4: the matrix has no axes"},
		{"stages:\n- {name: a, uses: fake, matrix: {axes: {m: [x]}, include: [{m: x}]}}\n", "f:4: the matrix has the cell m=x already"},
		{"stages:\n- {name: a, uses: fake, with: {a: &x [*x]}}\n", "f:4: stage a: alias *x stands inside its own anchor"},
		{"concurrency: {supersede: true}\nstages: [{name: a, uses: fake}]\n", "f:3: supersede: name the group of runs of which a newer one supersedes the older"},
		{bomb, "f:4: stage a: aliases and matrices make too much of this file"},
	} {
		inputs := map[string]string{}
		if strings.HasPrefix(c.text, "inputs") {
			inputs["c"] = "x"
		}
		began := time.Now()
		_, err := parse(c.text, inputs)
		if err == nil || err.Error() != c.want {
			t.Errorf("%.200s\ngives %v\nwant %s", c.text, err, c.want)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("%.60s took %v", c.text, d)
		}
	}
}

// A file of the largest size is refused in time, whatever is much in it.
func TestHostile(t *testing.T) {
	fill := func(format string) string {
		var b strings.Builder
		for i := 0; b.Len() < 900_000; i++ {
			fmt.Fprintf(&b, format, i)
		}
		return b.String()
	}
	cells := "{name: s, uses: fake, matrix: {axes: {a: [" + numbers(249) + "]}}}"
	for name, text := range map[string]string{
		"stages":         "stages:\n" + fill("- {name: s%d, uses: fake}\n"),
		"needs":          "stages:\n- " + cells + "\n- {name: t, uses: fake, matrix: {axes: {b: [" + numbers(249) + "]}}, needs: [" + fill("s, x%d,") + "]}\n",
		"references":     "stages: [{name: a, uses: fake, with: {x: \"" + fill("${input.x%d}") + "\"}}]\n",
		"unclosed":       "stages: [{name: a, uses: fake, with: {x: \"" + fill("$${ %d") + "${\"}}]\n",
		"inputs":         "inputs:\n" + fill("  i%d: {}\n") + "stages: [{name: a, uses: fake}]\n",
		"with":           "stages:\n- {name: a, uses: fake, matrix: {axes: {a: [" + numbers(400) + "]}}, with: {x: [" + fill("%d,") + "]}}\n",
		"unknown fields": fill("f%d: 1\n"),
		"deep":           "stages: [{name: a, uses: fake, with: {x: " + strings.Repeat("[", 9000) + strings.Repeat("]", 9000) + "}}]\n",
		"keys":           "stages: [{name: a, uses: fake}]\n" + keys(4999),
		"values":         "matrix: {axes: {a: [" + fill("v%d,") + "]}}\nstages: [{name: a, uses: fake}]\n",
	} {
		began := time.Now()
		_, err := parse(text, nil)
		if err == nil && name != "deep" {
			t.Errorf("%s: taken", name)
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("%s: took %v", name, d)
		}
		if err != nil && len(err.Error()) > 1<<20 {
			t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
		}
	}
}

// bomb is a small file that aliases make 9^9 values of.
const bomb = `stages:
- {name: a, uses: fake, with: {a: &a [1,1,1,1,1,1,1,1,1], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e], g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f], h: [*g,*g,*g,*g,*g,*g,*g,*g,*g]}}
`

// keys are n fields that no pipeline file has.
func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	return b.String()
}

func numbers(n int) string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(i))
	}
	return strings.Join(out, ", ")
}

// Whatever the file holds: no panic, every error has a place, and what is right
// is the same when it is read again.
func FuzzParse(f *testing.F) {
	for _, dir := range []string{"../ci/demo", "../ci/demo-metal", "../tests/testdata"} {
		files, _ := filepath.Glob(dir + "/*.yaml")
		for _, name := range files {
			if b, err := os.ReadFile(name); err == nil {
				f.Add(b)
			}
		}
	}
	f.Add([]byte(header + whole))
	f.Add([]byte(header + bomb))
	f.Fuzz(func(t *testing.T, content []byte) {
		steps := []string{"build", "smoke", "promote", "fake"}
		p, err := Parse("f", content, nil, steps)
		if err != nil {
			if len(yamlfile.Of(err)) == 0 {
				t.Errorf("no place: %v", err)
			}
			return
		}
		if len(p.Stages) > maxStages {
			t.Errorf("%d stages", len(p.Stages))
		}
		index := map[string]bool{}
		for _, s := range p.Stages {
			index[s.Name] = true
		}
		for _, s := range p.Stages {
			for _, n := range s.Needs {
				if !index[n] {
					t.Errorf("%s needs %s, which is not there", s.Name, n)
				}
			}
		}
		again, err := Parse("f", bytes.Clone(p.Content()), p.Inputs, steps)
		if err != nil || !cmp.Equal(p.Stages, again.Stages, cmpopts.IgnoreUnexported(Stage{})) {
			t.Errorf("read again it is another: %v", err)
		}
	})
}
