package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// A server may say that a stage has any name: nothing is written elsewhere.
func TestResultsOfHostile(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"../x", "/x", "a/b", "..", ".", ""} {
		r := &pipeline.Run{ID: "1", Stages: []*pipeline.StageRun{{Name: name, Attempts: []pipeline.Attempt{{Number: 1}}}}}
		if err := saveResults(t.Context(), hostile{}, r, filepath.Join(dir, "results")); command.Status(err) != command.StatusUsage {
			t.Errorf("%q: %v", name, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*.xml")); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

type hostile struct{ place }

// file implements place.
func (hostile) file(_ context.Context, _ int64, _ string, _ int, _ string, w io.Writer) error {
	_, err := io.WriteString(w, "<x/>")
	return err
}

// Results are waited for while the server is away, and are not written twice
// where a connection broke.
func TestResultsOfAway(t *testing.T) {
	var asked atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Content-Length", "4")
			_, _ = io.WriteString(w, "ab") // and no more
			return
		}
		_, _ = io.WriteString(w, "abcd")
	}))
	defer s.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("gst_"+strings.Repeat("a", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := api.NewClient(s.URL, token, "")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	l := &lasting{distantServer: &distantServer{c}, patience: time.Minute}
	if err := l.file(t.Context(), 1, "a", 1, "junit.xml", &b); err != nil || b.String() != "abcd" || asked.Load() != 2 {
		t.Errorf("%q after %d, %v", &b, asked.Load(), err)
	}
}

// A pipe in an attempt's directory is no file, nor is what a link leads to
// elsewhere; a log that is not there does not hide those of other stages.
func TestNoFiles(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, good := range map[string]bool{"pipe": false, "out": false, ".": false, "file": true} {
		f, err := engine.OpenFile(dir, name)
		if (err == nil) != good {
			t.Errorf("%s: %v", name, err)
		}
		if name == "pipe" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
		_ = f.Close()
	}
	var b bytes.Buffer
	if err := logs(t.Context(), &b, false, halfLogs{}, 1); err != nil || b.String() != "==> a <==\n==> b <==\nhello" {
		t.Errorf("%q, %v", &b, err)
	}
}

// halfLogs is a run of which one stage has no log.
type halfLogs struct{ place }

// run implements place.
func (halfLogs) run(context.Context, int64) (*pipeline.Run, error) {
	one := []pipeline.Attempt{{Number: 1}}
	return &pipeline.Run{Stages: []*pipeline.StageRun{{Name: "a", Attempts: one}, {Name: "b", Attempts: one}}}, nil
}

// log implements place.
func (halfLogs) log(_ context.Context, out *logOutput, _ int64, stage string, _ int, _ bool) error {
	if stage == "a" {
		return &fs.PathError{Op: "open", Path: "log", Err: fs.ErrNotExist}
	}
	return out.take(strings.NewReader("hello"), stage, 1)
}

// Characters are whole wherever a read ends, also where two reads of a log that
// grows do.
func TestPlainCharacters(t *testing.T) {
	const text = "für 10 € 🙂 \xff\xe2x\xf0\x9f"
	const want = "für 10 € 🙂 ?x?"
	for cut := range len(text) {
		var b bytes.Buffer
		l := &logOutput{w: &b}
		for _, part := range []string{text[:cut], text[cut:]} {
			if err := l.take(iotest.OneByteReader(strings.NewReader(part)), "a", 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.end(); err != nil || strings.ReplaceAll(b.String(), "??", "?") != want {
			t.Errorf("cut at %d: %q, %v", cut, &b, err)
		}
	}
}
