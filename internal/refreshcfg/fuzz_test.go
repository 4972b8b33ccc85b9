package refreshcfg

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"goldsmith/internal/hook"
	"goldsmith/internal/metadata"
)

// A header that is taken can be written and read again, and planned with.
func FuzzHeader(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"changed": ["/etc/*", "a.b"], "after": []}`, `{"timeout": "1h", "retries": 3, "delay": "1s", "semaphore": "x:2"}`,
		`{"once": "machine", "snapshot": ["/var/lib/x"]}`, `{"once": "image"}`, `{"timeout": "-1s"}`, `{"semaphore": "a:+1"}`, `{"after": ["0", "1", "x"]}`, `[`,
	} {
		f.Add("#!/bin/sh\n" + hook.HeaderMark + " " + s + "\n")
	}
	f.Fuzz(func(t *testing.T, text string) {
		var h Header
		if hook.Header([]byte(text), &h) != nil || h.check() != nil {
			return
		}
		b, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		var again Header
		if err := json.Unmarshal(b, &again); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if len(h.Changed) == 0 && h.Changed != nil {
			h.Changed, again.Changed = nil, nil // omitted
		}
		if !reflect.DeepEqual(h, again) {
			t.Errorf("%+v became %+v", h, again)
		}
		if name, count := h.semaphore(); h.Semaphore != "" && (name == "" || count < 1) {
			t.Errorf("semaphore %q is %q, %d", h.Semaphore, name, count)
		}
		if _, err := newGraph("test", []string{"0", "1"}, []Header{{}, h}, false); err != nil && h.After == nil {
			t.Error(err)
		}
	})
}

// Whatever metadata hold, what is made of deployments stays in its place.
func FuzzDeployments(f *testing.F) {
	f.Add(`{"deployments": [{"id": "1", "group": "component", "config": {"configs": [{"actions": ["CREATE"], "tool": "script", "config": "x"}]}, "inputs": [{"name": "deploy_action", "value": "CREATE"}]}]}`)
	f.Add(strings.ReplaceAll(heatDocument, "URL", "http://x"))
	f.Add(`{"deployments": [{"id": "../../x", "inputs": [1, {"type": "String", "value": [{}]}, null]}, null, []]}`)
	f.Fuzz(func(t *testing.T, text string) {
		v, err := metadata.Parse("fuzz", []byte(text))
		doc, ok := v.(*metadata.Object)
		if err != nil || !ok {
			return
		}
		before := metadata.JSON(doc)
		list, _ := doc.Get("deployments")
		items, _ := list.([]any)
		for _, item := range items {
			d, ok := readDeployment(item)
			if !ok {
				continue
			}
			if name := fileName(d.id); strings.ContainsAny(name, "/\x00") || strings.HasPrefix(name, ".") || len(name) > 200 {
				t.Errorf("%q became the file name %q", d.id, name)
			}
			_ = d.component()
			if _, err := metadata.Parse("item", []byte(metadata.JSON(d.doc))); err != nil {
				t.Error(err)
			}
			(Deployments{Hooks: []string{"/nonexistent"}}).hook(d.group)
		}
		for _, m := range recipientOf(doc).heat("/nonexistent") {
			if m.url == "" || len(m.body) == 0 {
				t.Errorf("message %+v", m)
			}
		}
		if after := metadata.JSON(doc); after != before {
			t.Errorf("the metadata became %s", after)
		}
	})
}

// A record that is taken leads nowhere outside of the state's directory.
func FuzzMigrationRecord(f *testing.F) {
	f.Add(`{"phase": "migration", "name": "50-x", "state": "done", "from": {"version": "1"}, "to": {"version": "2"}, "paths": ["/a"], "kept": true, "sequence": 1}`)
	f.Add(`{"name": "50-x", "state": "returning", "paths": ["/.."]}`)
	f.Add(`{"name": "../x"}`)
	dir := f.TempDir()
	s := state{dir}
	path := filepath.Join(dir, migrationRecord("50-x"))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		m, there, err := s.migration("50-x")
		if err != nil || !there {
			return
		}
		if p := s.snapshot(&m, 0); filepath.Dir(p) != dir+"/snapshots/50-x" {
			t.Errorf("snapshot %s", p)
		}
		for _, p := range m.Paths {
			if p == "/" || !filepath.IsAbs(p) || p != filepath.Clean(p) {
				t.Errorf("path %q", p)
			}
		}
		all, err := s.migrations()
		if err != nil || len(all) != 1 {
			t.Fatal(all, err)
		}
		list, stay := back(all, m.From, lastImage{any: true})
		for _, b := range list {
			if b.State == MigrationReturned {
				t.Errorf("put back twice: %+v", b)
			}
		}
		for _, b := range stay {
			if b.State != MigrationDone || b.Kept {
				t.Errorf("stays: %+v", b)
			}
		}
	})
}
