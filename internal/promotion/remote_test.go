package promotion

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"goldsmith/internal/registry"
	"goldsmith/internal/store/storetest"
	"goldsmith/internal/testenv"
	"goldsmith/internal/trust"
	"goldsmith/internal/update/fetch"
	"goldsmith/pipeline"
)

// site is a registry that can be made to fail.
func site(t *testing.T) (repository string, refuse *atomic.Value) {
	t.Helper()
	refuse = &atomic.Value{}
	refuse.Store("")
	h := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if part := refuse.Load().(string); part != "" && strings.Contains(r.Method+" "+r.URL.Path, part) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://") + "/images/demo", refuse
}

// raw is what skopeo reads as an image's manifest: its digest.
func raw(t *testing.T, ref string) string {
	t.Helper()
	c := exec.Command("skopeo", "inspect", "--raw", "--tls-verify=false", ref)
	c.Stderr = os.Stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("skopeo inspect %s: %v", ref, err)
	}
	sum := sha256.Sum256(out)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// A promotion moves the tag of a registry, too: skopeo copies the same bytes
// from both, and a machine that trusts the channel's key takes the image.
func TestRegistry(t *testing.T) {
	testenv.Need(t, "skopeo")
	d := newDesk(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	ctx := t.Context()
	repository, _ := site(t)
	p := d.policy(pipeline.Channel{Name: "production", Registry: repository})
	p.SignWith(key(t))
	img := d.image("1")
	m, err := d.Promote(ctx, p, img, eva)
	d.ok(err)
	copied := t.TempDir()
	for _, from := range []string{"docker://" + repository + ":production", "oci:" + d.images.Dir() + ":production"} {
		to := "oci:" + copied + ":copy"
		if out, err := exec.Command("skopeo", "copy", "--quiet", "--src-tls-verify=false", from, to).CombinedOutput(); err != nil {
			t.Fatalf("skopeo copy %s: %v\n%s", from, err, out)
		}
		if got := raw(t, to); got != img {
			t.Errorf("skopeo copied %s from %s; want %s", got, from, img)
		}
	}
	for _, source := range []string{repository + "@" + img, "oci:" + d.images.Dir() + "@" + img} {
		im, err := fetch.Open(ctx, source, nil)
		d.ok(err)
		envelopes, err := im.Envelopes(ctx)
		d.ok(errors.Join(err, im.Close()))
		if said, err := trust.NewPolicy(p.key.Public).VerifyAny(envelopes, img); err != nil || said.Version != "1" {
			t.Errorf("%s: %+v, %v", source, said, err)
		}
		if _, err := trust.NewPolicy(key(t).Public).VerifyAny(envelopes, img); err == nil {
			t.Errorf("%s: a machine that trusts another key takes it", source)
		}
	}
	pulled, err := registry.Open(t.TempDir())
	d.ok(err)
	if got, err := pulled.Pull(ctx, repository+"@"+m.Statement); err == nil {
		t.Errorf("the statement is an image: %s", got)
	}
}

// While the registry is down nothing moves; a move that was begun there is
// finished when it is back.
func TestRegistryDown(t *testing.T) {
	d := newDesk(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	ctx := t.Context()
	repository, refuse := site(t)
	p := d.policy(pipeline.Channel{Name: "production", Registry: repository})
	p.SignWith(key(t))
	first, second := d.image("1"), d.image("2")
	at := func() string {
		t.Helper()
		got, err := registry.Tagged(ctx, repository, "production")
		d.ok(err)
		return got
	}
	_, err := d.Promote(ctx, p, first, eva)
	d.ok(err)
	for _, part := range []string{"PUT", "/manifests/production", "GET", "HEAD"} {
		refuse.Store(part)
		if _, err := d.Promote(ctx, p, second, eva); err == nil || d.held("production") != first {
			t.Fatalf("%s refused: %v; production holds %s", part, err, d.held("production"))
		}
		refuse.Store("")
		if got := at(); got != first {
			t.Fatalf("%s refused: the registry holds %s", part, got)
		}
		if part == "/manifests/production" { // nobody knows whether the tag was moved
			m, err := d.Promote(ctx, p, second, eva)
			if err != nil || !m.Mended || !m.Already {
				t.Fatalf("begun: %+v, %v", m, err)
			}
			_, err = d.Promote(ctx, p, first, adam)
			d.ok(err)
		}
	}
	// The tag is moved, and the process dies before it is written down.
	d.Book.step = func(name string) error {
		if name == "tag" {
			return errKilled
		}
		return nil
	}
	if _, err := d.Promote(ctx, p, second, eva); !errors.Is(err, errKilled) || at() != second || d.held("production") != first {
		t.Fatalf("%v; the registry holds %s", err, at())
	}
	d.Book.step = func(string) error { return nil }
	d.at = d.at.Add(time.Hour)
	// Gone for good: the move is given up, then the channel can be moved again.
	refuse.Store("PUT")
	if _, err := d.Rollback(ctx, p, adam); err == nil || !strings.Contains(err.Error(), "finishing the move of production to "+second+" that eva began") {
		t.Fatal(err)
	}
	refuse.Store("")
	d.at = d.at.Add(time.Hour)
	d.ok(d.Abandon(ctx, "production", adam))
	m, err := d.Promote(ctx, p, second, adam)
	if err != nil || m.Mended || m.Previous != first || at() != second {
		t.Fatalf("%+v, %v", m, err)
	}
}
