package step

import (
	_ "embed"
	"slices"
)

//go:embed pipeline.schema.json
var schema []byte

// Schema is the JSON schema (draft 2020-12) of pipeline files, each step's
// parameters among it. It knows the form of a file; what names what, and what
// is there, only reading the file tells.
func Schema() []byte { return slices.Clone(schema) }
