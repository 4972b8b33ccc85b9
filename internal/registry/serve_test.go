package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"goldsmith/internal/testenv"
)

// serving serves a layout and returns its host and port.
func serving(t *testing.T, l *Layout, c Config) string {
	t.Helper()
	s := httptest.NewServer(l.Handler(c))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// What one layout has goes through a served one into a third, and stays what it
// was, with what is attached to it.
func TestServedRoundTrip(t *testing.T) {
	l, house := open(t), open(t)
	host := serving(t, house, Config{})
	digest, _, _ := put(t, l)
	if _, err := l.Attach(digest, SignatureType, nil, Blob{"release.dsse.json", "application/json", []byte("signed")}); err != nil {
		t.Fatal(err)
	}
	if err := l.Push(t.Context(), digest, host+"/images/t:candidate"); err != nil {
		t.Fatal(err)
	}
	if tags, err := house.Tags(); err != nil || !cmp.Equal(tags, map[string]string{"candidate": digest}) {
		t.Errorf("tags %v, %v", tags, err)
	}
	if err := house.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "disk")); err != nil {
		t.Error(err)
	}
	signed, err := house.Referrers(digest, SignatureType)
	if err != nil || len(signed) != 1 {
		t.Fatalf("%d signatures, %v", len(signed), err)
	}
	to := open(t)
	if got, err := to.Pull(t.Context(), host+"/other/name:candidate"); got != digest || err != nil {
		t.Errorf("Pull = %s, %v", got, err)
	}
	ref, err := name.NewDigest(host + "/images/t@" + digest)
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range map[string]int{SignatureType: 1, EvidenceType: 0} {
		index, err := remote.Referrers(ref, remote.WithFilter("artifactType", kind))
		if err != nil {
			t.Fatal(err)
		}
		im, err := index.IndexManifest()
		if err != nil || len(im.Manifests) != n {
			t.Errorf("%d of %s, %v; want %d", len(im.Manifests), kind, err, n)
		}
	}
}

// Images of others, and indexes of them, can be kept, too; tags move.
func TestServedForeign(t *testing.T) {
	house := open(t)
	host := serving(t, house, Config{})
	var last v1.Image
	for _, tag := range []string{"c", "a", "b", "a"} {
		img, err := random.Image(3000, 2)
		if err != nil {
			t.Fatal(err)
		}
		last = mutate.ConfigMediaType(mutate.MediaType(img, types.OCIManifestSchema1), types.OCIConfigJSON)
		ref, _ := name.NewTag(host + "/x:" + tag)
		if err := remote.Write(ref, last); err != nil {
			t.Fatal(err)
		}
	}
	repo, _ := name.NewRepository(host + "/x")
	tags, err := remote.List(repo, remote.WithPageSize(2))
	if err != nil || !slices.Equal(tags, []string{"a", "b", "c"}) {
		t.Errorf("List = %v, %v", tags, err)
	}
	got, err := remote.Get(repo.Tag("a"))
	if want, _ := last.Digest(); err != nil || got.Digest != want {
		t.Errorf("a is %v, %v; want %s", got, err, want)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: last})
	if err := remote.WriteIndex(repo.Tag("all"), index); err != nil {
		t.Fatal(err)
	}
	back, err := remote.Index(repo.Tag("all"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := must(t, index.Digest), must(t, back.Digest); a != b {
		t.Errorf("the index is %s, was %s", b, a)
	}
	if list, err := house.List(); err != nil || len(list) != 0 {
		t.Errorf("images of ours: %v, %v", list, err)
	}
}

func must[T any](t *testing.T, f func() (T, error)) T {
	t.Helper()
	v, err := f()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// skopeo copies into the registry and out of it, and the digest stays.
func TestSkopeoCopiesBothWays(t *testing.T) {
	testenv.Need(t, "skopeo")
	l, house := open(t), open(t)
	host := serving(t, house, Config{})
	digest, _, _ := put(t, l)
	if err := l.Tag(digest, "candidate"); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	for _, args := range [][]string{
		{"--dest-tls-verify=false", "oci:" + l.Dir() + ":candidate", "docker://" + host + "/images/t:pushed"},
		{"--src-tls-verify=false", "docker://" + host + "/images/t:pushed", "oci:" + copied + ":pulled"},
	} {
		out, err := exec.Command("skopeo", append([]string{"copy", "--preserve-digests"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("skopeo %q: %v\n%s", args, err, out)
		}
	}
	back, err := Open(copied)
	if err != nil {
		t.Fatal(err)
	}
	for where, l := range map[string]*Layout{"pushed": house, "pulled": back} {
		if tags, err := l.Tags(); err != nil || tags[where] != digest {
			t.Errorf("%s: %v, %v; want %s", where, tags, err, digest)
		}
	}
}

// asking sends requests to a served layout.
type asking struct {
	t    *testing.T
	host string
}

// do sends a request and returns the answer with its body.
func (a asking) do(method, path, body string, header ...string) (*http.Response, string) {
	a.t.Helper()
	if !strings.HasPrefix(path, "/") {
		path = "/v2/x/" + path
	}
	r, err := http.NewRequestWithContext(a.t.Context(), method, "http://"+a.host+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	return res, string(b)
}

// want sends a request whose answer has a status and, of an error, a code.
func (a asking) want(status int, code, method, path, body string, header ...string) *http.Response {
	a.t.Helper()
	res, text := a.do(method, path, body, header...)
	var e struct{ Errors []struct{ Code string } }
	if code != "" {
		if err := json.Unmarshal([]byte(text), &e); err != nil || len(e.Errors) != 1 || e.Errors[0].Code != code {
			a.t.Errorf("%s %.200s: %q, %v; want %s", method, path, text, err, code)
		}
	}
	if res.StatusCode != status {
		a.t.Errorf("%s %.200s = %d %.300s; want %d", method, path, res.StatusCode, text, status)
	}
	return res
}

func sum(s string) string {
	b := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(b[:])
}

func TestUploadInChunks(t *testing.T) {
	house := open(t)
	a := asking{t, serving(t, house, Config{MaxBlob: 20})}
	at := a.want(202, "", "POST", "blobs/uploads/", "").Header.Get("Location")
	if r := a.want(202, "", "PATCH", at, "hello ", "Content-Range", "0-5"); r.Header.Get("Range") != "0-5" {
		t.Errorf("Range %q", r.Header.Get("Range"))
	}
	if r := a.want(416, "BLOB_UPLOAD_INVALID", "PATCH", at, "hello ", "Content-Range", "0-5"); r.Header.Get("Range") != "0-5" {
		t.Errorf("Range %q", r.Header.Get("Range"))
	}
	a.want(416, "BLOB_UPLOAD_INVALID", "PATCH", at, "x", "Content-Range", "9-9")
	a.want(416, "BLOB_UPLOAD_INVALID", "PATCH", at, "xy", "Content-Range", "6-6")
	a.want(202, "", "PATCH", at, "chunked", "Content-Range", "6-12")
	if r := a.want(204, "", "GET", at, ""); r.Header.Get("Range") != "0-12" {
		t.Errorf("Range %q", r.Header.Get("Range"))
	}
	a.want(413, "SIZE_INVALID", "PATCH", at, "12345678")
	a.want(404, "BLOB_UNKNOWN", "GET", "blobs/"+sum("hello chunked world"), "")
	a.want(201, "", "PUT", at+"?digest="+sum("hello chunked world"), " world")
	a.want(404, "BLOB_UPLOAD_UNKNOWN", "PUT", at+"?digest="+sum("hello chunked world"), "")
	res, body := a.do("GET", "blobs/"+sum("hello chunked world"), "", "Range", "bytes=6-12")
	if res.StatusCode != 206 || body != "chunked" {
		t.Errorf("a range is %d %q", res.StatusCode, body)
	}
	a.want(200, "", "HEAD", "blobs/"+sum("hello chunked world"), "")
	a.want(201, "", "POST", "blobs/uploads/?mount="+sum("hello chunked world")+"&from=y", "")
	a.want(202, "", "POST", "blobs/uploads/?mount="+sum("no")+"&from=y", "")
	a.want(201, "", "POST", "blobs/uploads/?digest="+sum("at once"), "at once")
	a.want(400, "DIGEST_INVALID", "POST", "blobs/uploads/?digest="+sum("at once"), "another")
	at = a.want(202, "", "POST", "blobs/uploads/", "").Header.Get("Location")
	a.want(204, "", "DELETE", at, "")
	a.want(404, "BLOB_UPLOAD_UNKNOWN", "GET", at, "")
}

// Nothing is left of uploads that nobody ends, and nothing of wrong ones.
func TestUploadsAreSwept(t *testing.T) {
	house := open(t)
	a := asking{t, serving(t, house, Config{})}
	a.want(400, "DIGEST_INVALID", "POST", "blobs/uploads/?digest="+sum("x"), "y")
	old := a.want(202, "", "POST", "blobs/uploads/", "").Header.Get("Location")
	dir := filepath.Join(house.dir, uploadsDir)
	past := time.Now().Add(-uploadLife - time.Minute)
	if err := os.Chtimes(filepath.Join(dir, filepath.Base(old)), past, past); err != nil {
		t.Fatal(err)
	}
	a.want(202, "", "POST", "blobs/uploads/", "")
	a.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", old, "x")
	for range maxUploads - 1 {
		a.want(202, "", "POST", "blobs/uploads/", "")
	}
	a.want(429, "TOOMANYREQUESTS", "POST", "blobs/uploads/", "")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != maxUploads {
		t.Errorf("%d uploads, %v", len(entries), err)
	}
}

// Many clients push the same and different blobs; each gets what it pushed.
func TestUploadsAtOnce(t *testing.T) {
	house := open(t)
	a := asking{t, serving(t, house, Config{})}
	one := a.want(202, "", "POST", "blobs/uploads/", "").Header.Get("Location")
	held, err := (&served{house, Config{}}).hold(filepath.Base(one))
	if err != nil {
		t.Fatal(err)
	}
	a.want(409, "BLOB_UPLOAD_INVALID", "PATCH", one, "x")
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 24 {
		content := strings.Repeat(fmt.Sprint(i%5), 300<<10)
		wg.Go(func() {
			a.want(201, "", "POST", "blobs/uploads/?digest="+sum(content), content)
			if _, got := a.do("GET", "blobs/"+sum(content), ""); got != content {
				t.Error("another blob")
			}
		})
	}
	wg.Wait()
}
