package registry

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func kinds(t *testing.T, l *Layout, digest string) (out []string) {
	t.Helper()
	list, err := l.Referrers(digest, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		out = append(out, strings.TrimPrefix(r.ArtifactType, "test/"))
	}
	return out
}

func attach(t *testing.T, l *Layout, digest string, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := l.Attach(digest, "test/"+n, nil, Blob{n, "text/plain", []byte("about " + n)}); err != nil {
			t.Fatal(err)
		}
	}
}

// Two layouts exchange an image by way of a third, with all that is attached to
// it, in its order; what is there already stays, and what is damaged is mended.
func TestExchange(t *testing.T) {
	house, one, two := open(t), open(t), open(t)
	peer := Peer{URL: "http://" + serving(t, house, Config{})}
	digest, _, _ := put(t, one)
	attach(t, one, digest, "b", "a")
	if err := one.Send(t.Context(), peer, digest); err != nil {
		t.Fatal(err)
	}
	attach(t, house, digest, "c")
	if err := two.Bring(t.Context(), peer, digest, false); err != nil {
		t.Fatal(err)
	}
	if img, err := two.Image(digest); err != nil || img.UKI == nil || two.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "x")) == nil {
		t.Errorf("without its disk it is %+v, %v", img, err)
	}
	h, err := v1.NewHash(digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := house.manifest(h)
	if err != nil {
		t.Fatal(err)
	}
	// What a killed writer left.
	if err := os.WriteFile(two.blobPath(m.Layers[0].Digest), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := two.Bring(t.Context(), peer, digest, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := two.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "disk")); err != nil {
		t.Error(err)
	}
	attach(t, two, digest, "d")
	for range 2 {
		if err := two.Send(t.Context(), peer, digest); err != nil {
			t.Fatal(err)
		}
	}
	for name, l := range map[string]*Layout{"house": house, "two": two} {
		if got := kinds(t, l, digest); !slices.Equal(got, []string{"b", "a", "c", "d"}) {
			t.Errorf("%s has %q", name, got)
		}
	}
}

// A tag here follows the peer's, also when that is gone.
func TestFollow(t *testing.T) {
	house, two := open(t), open(t)
	peer := Peer{URL: "http://" + serving(t, house, Config{})}
	digest, _, _ := put(t, house)
	put(t, two)
	if err := house.Tag(digest, "staging"); err != nil {
		t.Fatal(err)
	}
	if tags, err := peer.Tags(t.Context()); err != nil || len(tags) != 1 || tags["staging"] != digest {
		t.Errorf("tags %v, %v", tags, err)
	}
	for _, tag := range []string{"staging", "none"} {
		got, err := peer.Tag(t.Context(), tag)
		if want := map[string]string{"staging": digest}[tag]; err != nil || got != want {
			t.Errorf("%s is %q, %v", tag, got, err)
		}
		if err := two.Follow("x", got); err != nil {
			t.Error(err)
		}
		if tags, err := two.Tags(); err != nil || tags["x"] != got {
			t.Errorf("x is %q, %v; want %q", tags["x"], err, got)
		}
	}
}

// A disk that was damaged is not sent, and one that is damaged on its way, or
// by a peer, is not taken.
func TestExchangeVerifies(t *testing.T) {
	house, one := open(t), open(t)
	digest, _, _ := put(t, house)
	lie := atomic.Bool{}
	handler := house.Handler(Config{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !lie.Load() || !strings.Contains(r.URL.Path, "/blobs/") {
			handler.ServeHTTP(w, r)
			return
		}
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, r)
		body := bytes.ReplaceAll(rec.Body.Bytes(), []byte{0}, []byte{1})
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	peer := Peer{URL: s.URL}
	lie.Store(true)
	if err := one.Bring(t.Context(), peer, digest, true); err == nil {
		t.Error("what was changed on its way was taken")
	}
	if list, err := one.List(); err != nil || len(list) != 0 {
		t.Errorf("it has %v, %v", list, err)
	}
	lie.Store(false)
	if err := one.Bring(t.Context(), peer, digest, true); err != nil {
		t.Fatal(err)
	}
	h, _ := v1.NewHash(digest)
	m, err := one.manifest(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(one.blobPath(m.Layers[0].Digest), []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	other := open(t)
	if err := one.Send(t.Context(), Peer{URL: "http://" + serving(t, other, Config{})}, digest); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged disk was sent: %v", err)
	}
	for _, name := range []string{sum("nothing"), "sha256:x"} {
		if err := one.Bring(t.Context(), peer, name, true); err == nil || Temporary(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Close()
	if err := one.Bring(t.Context(), peer, digest, true); !Temporary(err) {
		t.Errorf("a server that is away: %v", err)
	}
}
