package step

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/testbed/inventory"
)

// compiled is the schema as an independent validator takes it.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertVocabs()
	if err := c.AddResource("pipeline.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// instance is a YAML file as JSON has it.
func instance(t *testing.T, content []byte) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal(content, &v); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Every pipeline file of this repository is valid, for the schema as for us.
func TestSchemaTakesOurFiles(t *testing.T) {
	s, found := compiled(t), 0
	for _, top := range []string{"../../ci", "../../tests/testdata", "testdata/pipelines"} {
		err := filepath.WalkDir(top, func(file string, _ os.DirEntry, err error) error {
			if err != nil || filepath.Ext(file) != ".yaml" {
				return err
			}
			b, err := os.ReadFile(file)
			if err != nil || !bytes.Contains(b, []byte("\nstages:")) || !bytes.Contains(b, []byte("apiVersion: goldsmith/v1")) {
				return err
			}
			found++
			if err := s.Validate(instance(t, b)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			declared, err := pipeline.Declared(file, b)
			if err != nil {
				t.Error(err)
			}
			inputs := map[string]string{}
			for name, in := range declared {
				if in.Default == nil {
					inputs[name] = "0123456" // a commit, and a branch
				}
			}
			if _, err := pipeline.LoadWith(file, inputs, Names()); err != nil {
				t.Error(err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 7 {
		t.Errorf("found %d pipeline files", found)
	}
}

// What the schema refuses, we refuse, and the other way round where it is about
// the form of a file.
func TestSchemaRefuses(t *testing.T) {
	s, store := compiled(t), &Store{}
	for _, text := range []string{
		"",
		"stages: []\n",
		"stages: [{name: a}]\n",
		"stages: [{name: a, uses: nothing}]\n",
		"stages: [{name: A, uses: smoke}]\n",
		"stages: [{name: a, uses: build}]\n",
		"stages: [{name: a, uses: smoke, with: {machin: metal}}]\n",
		"stages: [{name: a, uses: smoke, with: {times: 3}}]\n",
		"stages: [{name: a, uses: smoke, with: {cpus: many}}]\n",
		"stages: [{name: a, uses: smoke, with: {cpus: 1000}}]\n",
		"stages: [{name: a, uses: smoke, with: {machine: cloud}}]\n",
		"stages: [{name: a, uses: smoke, with: {metadata: {instance-id: x}}}]\n",
		"stages: [{name: a, uses: reboots, with: {times: 0}}]\n",
		"stages: [{name: a, uses: smoke, with: {again: 11}}]\n",
		"stages: [{name: a, uses: smoke, with: {tests: {tags: []}}}]\n",
		"stages: [{name: a, uses: smoke, with: {tests: {not: ['a b']}}}]\n",
		"stages: [{name: a, uses: smoke, with: {tests: {without: [a]}}}]\n",
		"stages: [{name: a, uses: smoke, timeout: 5}]\n",
		"stages: [{name: a, uses: smoke, retry: {infra: 11}}]\n",
		"stages: [{name: a, uses: smoke, retry: {bad: 1}}]\n",
		"stages: [{name: a, uses: smoke, requires: [KVM]}]\n",
		"stages: [{name: a, uses: smoke, if: maybe}]\n",
		"stages: [{name: a, uses: smoke, artifacts: [{files: []}]}]\n",
		"stages: [{name: a, uses: smoke, artifacts: [{files: [x], keep: {passed: 3y}}]}]\n",
		"stages: [{name: a, uses: smoke, matrix: {axes: {a: []}}}]\n",
		"stages: [{name: a, uses: smoke, matrix: {axes: {a: ['x y']}}}]\n",
		"stages: [{name: a, uses: smoke, matrix: {axes: {A: [x]}}}]\n",
		"inputs: {C: {default: x}}\nstages: [{name: a, uses: smoke}]\n",
		"inputs: {c: {default: x, type: date}}\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, requires: [{any: []}]}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, requires: [{all: [x]}]}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a}, {name: b, from: a, soak: long}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, reruns: never}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, approvals: {count: 0, of: [eva]}}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, freeze: [{zone: UTC}]}]\nstages: [{name: a, uses: smoke}]\n",
		"channels: [{name: a, registry: example}]\nstages: [{name: a, uses: smoke}]\n",
		"groups: {a: []}\nstages: [{name: a, uses: smoke}]\n",
		"timeout: soon\nstages: [{name: a, uses: smoke}]\n",
		"defaults: {with: {}}\nstages: [{name: a, uses: smoke}]\n",
		"other: 1\nstages: [{name: a, uses: smoke}]\n",
		"stages: [{name: a, uses: smoke}]\nchannels: [{requires: [x]}]\n",
	} {
		content := []byte("apiVersion: goldsmith/v1\nname: t\n" + text)
		if s.Validate(instance(t, content)) == nil {
			t.Errorf("the schema takes %s", text)
		}
		p, err := pipeline.Parse("f", content, nil, Names())
		if err == nil {
			_, err = New(Env{Store: store, File: "f"}, p)
		}
		if err == nil {
			t.Errorf("we take %s", text)
		}
	}
}

// withs are the parameters of each step.
var withs = map[string]any{"build": buildWith{}, "smoke": machineWith{}, "upgrade": upgradeWith{}, "broken-upgrade": brokenWith{},
	"reset": machineWith{}, "reboots": rebootsWith{}, "power-cycle": powerWith{}, "promote": promoteWith{}, "script": scriptWith{}}

// The schema has the parameters that our structures have.
func TestSchemaIsComplete(t *testing.T) {
	type object struct {
		Ref        string `json:"$ref"`
		Properties map[string]json.RawMessage
	}
	var doc struct {
		Defs map[string]object `json:"$defs"`
	}
	if err := json.Unmarshal(Schema(), &doc); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(withs)); !slices.Equal(got, Names()) {
		t.Fatalf("this test knows %v; want %v", got, Names())
	}
	for name, with := range withs {
		def := doc.Defs["with-"+name]
		got := slices.Collect(maps.Keys(def.Properties))
		if base, ok := strings.CutPrefix(def.Ref, "#/$defs/"); ok {
			got = slices.AppendSeq(got, maps.Keys(doc.Defs[base].Properties))
		}
		slices.Sort(got)
		if d := cmp.Diff(keys(reflect.TypeOf(with)), got); d != "" {
			t.Errorf("parameters of %s (- structure, + schema):\n%s", name, d)
		}
	}
	var node object
	if err := json.Unmarshal(doc.Defs["machine"].Properties["node"], &node); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(keys(reflect.TypeFor[inventory.Request]()), slices.Sorted(maps.Keys(node.Properties))); d != "" {
		t.Errorf("with.node (- structure, + schema):\n%s", d)
	}
}

// keys are what YAML calls a structure's fields, sorted.
func keys(t reflect.Type) []string { return slices.Sorted(slices.Values(yamlfile.Fields(t))) }
