package goldsmith_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rhysd/actionlint"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// validate holds a YAML file against a JSON schema.
func validate(t *testing.T, file, schema string, content []byte) error {
	t.Helper()
	c := jsonschema.NewCompiler()
	s, err := c.Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := yaml.Unmarshal(content, &v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// What CI systems say of the examples for them; and that a field they do not
// know is told.
func TestExamplesOfCI(t *testing.T) {
	for file, c := range map[string]struct{ schema, good, bad string }{
		"ci/examples/gitlab/.gitlab-ci.yml": {"testdata/schema/gitlab-ci.json", "interruptible:", "interruptable:"},
		"ci/examples/zuul/zuul.yaml":        {"testdata/schema/zuul.json", "post-run:", "postrun:"},
	} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, file, c.schema, content); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if validate(t, file, c.schema, bytes.Replace(content, []byte(c.good), []byte(c.bad), 1)) == nil {
			t.Errorf("%s is taken with %s", file, c.bad)
		}
	}
	const workflow = "ci/examples/github/goldsmith.yml"
	content, err := os.ReadFile(workflow)
	if err != nil {
		t.Fatal(err)
	}
	lint := func(content []byte) []*actionlint.Error {
		l, err := actionlint.NewLinter(io.Discard, &actionlint.LinterOptions{})
		if err != nil {
			t.Fatal(err)
		}
		l2, err := l.Lint(workflow, content, nil)
		if err != nil {
			t.Fatal(err)
		}
		// The label of one's own runner is nobody's mistake.
		var out []*actionlint.Error
		for _, e := range l2 {
			if e.Kind != "runner-label" {
				out = append(out, e)
			}
		}
		return out
	}
	for _, e := range lint(content) {
		t.Error(e)
	}
	if len(lint(bytes.Replace(content, []byte("timeout-minutes:"), []byte("timeout:"), 1))) == 0 {
		t.Error("a workflow with an unknown field is taken")
	}
}

// No logic lives only in CI: whatever the examples run is a script of ours.
func TestExamplesCallScripts(t *testing.T) {
	called := regexp.MustCompile(`ci/[a-z-]+\.sh`)
	for _, file := range []string{"ci/examples/github/goldsmith.yml", "ci/examples/gitlab/.gitlab-ci.yml", "ci/examples/zuul/playbooks/run.yaml"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		scripts := called.FindAllString(string(b), -1)
		if len(scripts) == 0 {
			t.Errorf("%s calls no script", file)
		}
		for _, s := range scripts {
			if fi, err := os.Stat(filepath.FromSlash(s)); err != nil || fi.Mode()&0o111 == 0 {
				t.Errorf("%s calls %s: %v", file, s, err)
			}
		}
		if strings.Contains(string(b), "imgpipe ") {
			t.Errorf("%s calls imgpipe itself", file)
		}
	}
}
