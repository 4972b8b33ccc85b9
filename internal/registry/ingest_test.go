package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"goldsmith/internal/command"
)

// leftovers are the files of a layout that are no part of it.
func leftovers(t *testing.T, l *Layout) (found []string) {
	t.Helper()
	for _, pattern := range []string{".ingest-*", "blobs/*disk*", "blobs/.*"} {
		names, err := filepath.Glob(filepath.Join(l.Dir(), pattern))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, names...)
	}
	return found
}

// The same disk may be stored by several at a time.
func TestPutAtOnce(t *testing.T) {
	l := open(t)
	path, img := makeDisk(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { _, _, errs[i] = l.PutImage(t.Context(), path, img) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, l); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What was killed is swept by the next one; what lives is left alone.
func TestLeftoversAreSwept(t *testing.T) {
	l := open(t)
	alive, done, err := l.ingest(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".ingest-killed/disk", "blobs/disk-0123", "blobs/.disk-0123.goldsmith-1"} {
		name = filepath.Join(l.Dir(), name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, l)
	if left := leftovers(t, l); len(left) != 1 || left[0] != alive {
		t.Errorf("left: %v; want %s", left, alive)
	}
	done()
	if left := leftovers(t, l); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// A layout can be changed while an image is pulled into it, and what it has is
// not fetched again.
func TestPullKeepsNobodyWaiting(t *testing.T) {
	from := open(t)
	digest, _, _ := put(t, from)
	var to *Layout
	var mu sync.Mutex
	var other string
	var fetched []string
	handler := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if mu.Lock(); to != nil && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			fetched = append(fetched, r.URL.Path)
			if err := to.Tag(other, fmt.Sprint("moved-", len(fetched))); err != nil {
				t.Error(err)
			}
		}
		mu.Unlock()
		handler.ServeHTTP(w, r)
	}))
	defer s.Close()
	ref := strings.TrimPrefix(s.URL, "http://") + "/images/t:x"
	if err := from.Push(t.Context(), digest, ref); err != nil {
		t.Fatal(err)
	}
	l := open(t)
	path, img := makeDisk(t)
	img.Arch = "arm64"
	var err error
	if other, _, err = l.PutImage(t.Context(), path, img); err != nil {
		t.Fatal(err)
	}
	patience = time.Second
	defer func() { patience = usualPatience }()
	mu.Lock()
	to = l
	mu.Unlock()
	got, err := l.Pull(t.Context(), ref)
	if err != nil || got != digest {
		t.Fatalf("%s, %v", got, err)
	}
	if len(fetched) != 1 { // the description; the disk is the same
		t.Errorf("fetched %v", fetched)
	}
	if err := l.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "out")); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, l); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Who waits for a layout can be stopped, and is told in the end.
func TestLockedLayout(t *testing.T) {
	l := open(t)
	path, img := makeDisk(t)
	digest, _, err := l.PutImage(t.Context(), path, img)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := l.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	img.Arch = "arm64"
	if _, _, err := l.PutImage(stopped, path, img); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	patience = time.Millisecond
	defer func() { patience = usualPatience }()
	if err := l.Tag(digest, "x"); command.Status(err) != command.StatusBusy || !strings.Contains(err.Error(), l.Dir()) {
		t.Errorf("%v", err)
	}
}
