package pipeline

import (
	"encoding/json"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/yamlfile"
)

// The published schema (pipeline/step) has the fields that a file can have.
func TestSchemaFields(t *testing.T) {
	b, err := os.ReadFile("step/pipeline.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(b, &root); err != nil {
		t.Fatal(err)
	}
	for path, v := range map[string]any{
		"":                                       document{},
		"properties concurrency":                 concurrency{},
		"properties defaults":                    options{},
		"$defs stage":                            stageDocument{},
		"$defs matrix":                           matrix{},
		"$defs channel":                          Channel{},
		"$defs channel properties approvals":     Approvals{},
		"$defs channel properties freeze items":  Window{},
		"properties inputs additionalProperties": Input{},
		"properties defaults properties artifacts items":                 artifact{},
		"properties defaults properties artifacts items properties keep": keep{},
		"$defs stage properties artifacts items":                         artifact{},
		"$defs stage properties artifacts items properties keep":         keep{},
	} {
		at := root
		for key := range strings.FieldsSeq(path) {
			at, _ = at[key].(map[string]any)
		}
		props, _ := at["properties"].(map[string]any)
		if d := cmp.Diff(slices.Sorted(slices.Values(yamlfile.Fields(reflect.TypeOf(v)))), slices.Sorted(maps.Keys(props))); d != "" {
			t.Errorf("schema at %q (- structure, + schema):\n%s", path, d)
		}
		if at["additionalProperties"] != false {
			t.Errorf("schema at %q takes unknown fields", path)
		}
	}
}
