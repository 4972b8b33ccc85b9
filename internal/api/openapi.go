package api

import (
	"encoding/json"
	"net/http"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// openapi serves the description of everything that is served, made of the
// routes: OpenAPI 3.0 (https://spec.openapis.org/oas/v3.0.3).
func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, s.Describe())
}

type object = map[string]any

var inPath = regexp.MustCompile(`\{([a-z]+)(\.\.\.)?\}`)

// Describe returns the OpenAPI document.
func (s *Server) Describe() object {
	d := &describer{object{}, map[string]reflect.Type{}}
	problem := d.schema(reflect.TypeFor[Problem]())
	paths := object{}
	for _, r := range s.routes() {
		where := inPath.ReplaceAllString(r.path, "{$1}")
		item, _ := paths[where].(object)
		if item == nil {
			item = object{}
			paths[where] = item
		}
		item[strings.ToLower(r.method)] = d.operation(r, problem)
	}
	return object{
		"openapi": "3.0.3",
		"info":    object{"title": "imgpipe", "version": s.Version, "description": "Runs of pipelines, the work of their stages, and what is known of both."},
		"paths":   paths,
		"components": object{"schemas": d.schemas, "securitySchemes": object{
			"token": object{"type": "http", "scheme": "bearer", "description": "a token that 'imgpipe token add' made"}}},
	}
}

type describer struct {
	schemas object
	types   map[string]reflect.Type
}

func (d *describer) operation(r route, problem object) object {
	content := func(schema object) object { return object{"application/json": object{"schema": schema}} }
	good := object{"description": "it is so"}
	switch {
	case r.out != nil:
		good["content"] = content(d.schema(reflect.TypeOf(r.out)))
	case r.path == "/openapi.json":
		good["content"] = content(object{"type": "object"})
	default:
		good["content"] = object{"text/plain": object{"schema": object{"type": "string"}}}
	}
	op := object{"summary": r.summary, "responses": object{"200": good, "default": object{"description": "it is not", "content": content(problem)}}}
	if r.role != "" {
		op["security"] = []any{object{"token": []any{}}}
		op["description"] = "Needs the role " + string(r.role) + "."
	} else {
		op["security"] = []any{}
	}
	var parameters []any
	for _, m := range inPath.FindAllStringSubmatch(r.path, -1) {
		parameters = append(parameters, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for _, name := range sortedKeys(r.query) {
		parameters = append(parameters, object{"name": name, "in": "query", "description": r.query[name], "schema": object{"type": "integer"}})
	}
	if parameters != nil {
		op["parameters"] = parameters
	}
	switch {
	case r.in != nil:
		op["requestBody"] = object{"required": true, "content": content(d.schema(reflect.TypeOf(r.in)))}
	case r.raw || strings.HasSuffix(r.path, "/log") && r.method == http.MethodPost:
		op["requestBody"] = object{"required": true, "content": object{"application/octet-stream": object{}}}
	}
	return op
}

func sortedKeys(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// schema describes a type as encoding/json writes it.
func (d *describer) schema(t reflect.Type) object {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage]():
		return object{}
	case t == reflect.TypeFor[[]byte]():
		return object{"type": "string", "format": "byte"}
	case t.Implements(reflect.TypeFor[interface{ MarshalText() ([]byte, error) }]()):
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		return object{"type": "array", "nullable": true, "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "nullable": true, "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		return d.structure(t)
	case reflect.String:
		return object{"type": "string"}
	}
	return object{}
}

func (d *describer) structure(t reflect.Type) object {
	name := t.Name()
	if known, ok := d.types[name]; ok && known != t { // another package's
		name = path.Base(t.PkgPath()) + "." + name
	}
	d.types[name] = t
	ref := object{"$ref": "#/components/schemas/" + name}
	if _, ok := d.schemas[name]; ok {
		return ref
	}
	properties := object{}
	d.schemas[name] = object{"type": "object", "properties": properties}
	var required []any
	for i := range t.NumField() {
		f := t.Field(i)
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && tag == "" {
			d.embed(f.Type, properties)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if tag == "" {
			tag = f.Name
		}
		properties[tag] = d.schema(f.Type)
		if !strings.Contains(options, "omit") {
			required = append(required, tag)
		}
	}
	if required != nil {
		d.schemas[name].(object)["required"] = required
	}
	return ref
}

// embed adds what a structure has of one that is embedded in it.
func (d *describer) embed(t reflect.Type, properties object) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	d.structure(t)
	name := t.Name()
	if d.types[name] != t {
		name = path.Base(t.PkgPath()) + "." + name
	}
	inner, _ := d.schemas[name].(object)["properties"].(object)
	for k, v := range inner {
		properties[k] = v
	}
}
