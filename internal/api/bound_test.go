package api

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline/engine"
)

// What an attempt leaves is bounded, whatever a worker sends.
func TestBounds(t *testing.T) {
	h := open(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	op, w := h.client("op", Operator), h.client("w1", Work)
	file := h.pipeline("stages:\n  - {name: build, uses: work}\n")
	if err := op.Call(t.Context(), "POST", "/v1/runs", Submission{File: file}, nil, time.Minute); err != nil {
		t.Fatal(err)
	}
	a, err := w.Claim(t.Context(), engine.WorkerInfo{Slots: 1}, 10*time.Second)
	if err != nil || a == nil {
		t.Fatalf("%v, %v", a, err)
	}
	dir := engine.AttemptDir(h.dir, a.Run, a.Stage, a.Number)
	hollow := func(name string, size int64) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(dir, name), size); err != nil {
			t.Fatal(err)
		}
	}
	hollow("log", engine.MaxLog+engine.LogEnd)
	status, body := h.do("POST", fmt.Sprintf("/v1/work/%d/log?offset=%d", a.Attempt, engine.MaxLog+engine.LogEnd), w.token, strings.NewReader("more"))
	if fi, err := os.Stat(filepath.Join(dir, "log")); status != 200 || err != nil || fi.Size() != engine.MaxLog+engine.LogEnd {
		t.Errorf("%d %s: %d bytes, %v", status, body, fi.Size(), err)
	}
	hollow("console.log", engine.MaxFiles-10)
	put := func(name string, n, want int) {
		t.Helper()
		status, body := h.do("PUT", fmt.Sprintf("/v1/work/%d/files/%s", a.Attempt, name), w.token, strings.NewReader(strings.Repeat("x", n)))
		if status != want {
			t.Errorf("%d bytes: %d %s; want %d", n, status, body, want)
		}
	}
	put("a", 11, 400)
	put("a", 10, 200)
	put("a", 9, 200) // in its place
	put("b", 2, 400)
	put("console.log", 5000, 200)
	put("b", 2, 200)
	put("1/2/3/4/5", 0, 200)
	put("1/2/3/4/5/6", 0, 400)
	// One file comes after the other: each sees what the others have left.
	hollow("console.log", engine.MaxFiles-9-2-10)
	body1, feed := io.Pipe()
	first, second := make(chan int), make(chan int)
	send := func(name string, body io.Reader, to chan<- int) {
		status, _ := h.do("PUT", fmt.Sprintf("/v1/work/%d/files/%s", a.Attempt, name), w.token, body)
		to <- status
	}
	go send("slow", body1, first)
	if _, err := feed.Write([]byte("12345678")); err != nil {
		t.Fatal(err)
	}
	for h.server.keeping() == 0 {
		time.Sleep(time.Millisecond)
	}
	go send("fast", strings.NewReader("12345678"), second)
	select {
	case status := <-second:
		t.Errorf("the second did not wait: %d", status)
	case <-time.After(100 * time.Millisecond):
	}
	feed.Close()
	if one, two := <-first, <-second; one != 200 || two != 400 {
		t.Errorf("%d, %d", one, two)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A file that somebody may look at is no way out of the attempt's directory.
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"a": 200, "out": 404, "pipe": 404, "..%2fx": 404, "nothere": 404, "%2fetc%2fpasswd": 404} {
		if status, body := h.get(fmt.Sprintf("/v1/runs/%d/stages/build/files/%s", a.Run, name), op.token); status != want {
			t.Errorf("%s: %d %.60s", name, status, body)
		}
	}
}

// keeping is of how many attempts files are being kept.
func (s *Server) keeping() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.putting)
}
