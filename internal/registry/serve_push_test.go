package registry

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// small is a manifest of one blob, with the fields that change puts into it.
func small(change map[string]any) string {
	m := map[string]any{"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "artifactType": "text/x",
		"config": map[string]any{"mediaType": EmptyType, "digest": sum("{}"), "size": 2}, "layers": []any{}}
	for k, v := range change {
		m[k] = v
	}
	b, _ := json.Marshal(m)
	return string(b)
}

func TestPutManifestRefuses(t *testing.T) {
	house := open(t)
	protected := func(_ *http.Request, tag string) (bool, error) { return tag == "production", nil }
	a := asking{t, serving(t, house, Config{Protected: protected})}
	kind := []string{"Content-Type", string(types.OCIManifestSchema1)}
	a.want(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "manifests/t", small(nil), kind...)
	a.want(201, "", "POST", "blobs/uploads/?digest="+sum("{}"), "{}")
	absent := map[string]any{"mediaType": types.OCIManifestSchema1, "digest": sum("absent"), "size": 6}
	for _, tt := range []struct {
		name, code, to, body string
		status               int
	}{
		{"wrong digest", "DIGEST_INVALID", sum("other"), small(nil), 400},
		{"channel", "DENIED", "production", small(nil), 403},
		{"tag like a digest", "MANIFEST_INVALID", strings.Repeat("ab", 32), small(nil), 400},
		{"tag that is none", "MANIFEST_INVALID", "-x", small(nil), 400},
		{"no JSON", "MANIFEST_INVALID", "t", "{", 400},
		{"old schema", "MANIFEST_INVALID", "t", small(map[string]any{"schemaVersion": 1}), 400},
		{"other type", "MANIFEST_INVALID", "t", small(map[string]any{"mediaType": types.OCIImageIndex}), 400},
		{"wrong size", "MANIFEST_BLOB_UNKNOWN", "t", small(map[string]any{"config": map[string]any{"digest": sum("{}"), "size": 3}}), 400},
		{"no digest", "MANIFEST_INVALID", "t", small(map[string]any{"config": map[string]any{}}), 400},
		{"path for digest", "MANIFEST_INVALID", "t", small(map[string]any{"layers": []any{map[string]any{"digest": "sha256:../../index.json", "size": 1}}}), 400},
		{"no image of ours", "MANIFEST_INVALID", "t", small(map[string]any{"artifactType": ImageType}), 400},
		{"huge", "SIZE_INVALID", "t", small(map[string]any{"annotations": map[string]string{"a": strings.Repeat("x", MaxManifest)}}), 413},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asking{t, a.host}.want(tt.status, tt.code, "PUT", "manifests/"+tt.to, tt.body, kind...)
		})
	}
	a.want(415, "MANIFEST_INVALID", "PUT", "manifests/t", small(nil), "Content-Type", "text/plain")
	if im, err := house.index(); err != nil || len(im.Manifests) != 0 {
		t.Errorf("the index has %v, %v", im, err)
	}
	// What is attached may come before what it is attached to.
	r := a.want(201, "", "PUT", "manifests/"+sum(small(map[string]any{"subject": absent})), small(map[string]any{"subject": absent}), kind...)
	if got := r.Header.Get("OCI-Subject"); got != sum("absent") {
		t.Errorf("OCI-Subject %q", got)
	}
	if _, body := a.do("GET", "referrers/"+sum("absent"), ""); !strings.Contains(body, sum(small(map[string]any{"subject": absent}))) {
		t.Errorf("referrers %s", body)
	}
}

// No path and no link leads out of the layout.
func TestServedStaysInside(t *testing.T) {
	house := open(t)
	a := asking{t, serving(t, house, Config{})}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, filepath.Join(house.dir, "blobs", "sha256", strings.TrimPrefix(sum("secret"), "sha256:"))); err != nil {
		t.Fatal(err)
	}
	a.want(404, "BLOB_UNKNOWN", "GET", "blobs/"+sum("secret"), "")
	a.want(404, "", "HEAD", "blobs/"+sum("secret"), "")
	a.want(404, "NAME_UNKNOWN", "GET", "blobs/sha256:..%2f..%2findex.json", "")
	for _, path := range []string{"blobs/sha256:..", "blobs/sha512:" + strings.Repeat("00", 64)} {
		a.want(400, "DIGEST_INVALID", "GET", path, "")
	}
	for _, path := range []string{"/v2/../x/blobs/" + sum("a"), "/v2/X/blobs/" + sum("a"), "/v2/" + strings.Repeat("a", 256) + "/blobs/" + sum("a"), "/v2/a%00/tags/list"} {
		a.want(400, "NAME_INVALID", "GET", path, "")
	}
	for _, path := range []string{"/v1/", "/v2", "/v2/x", "/v2/x/blobs/", "/v2/x/blobs/a/b"} {
		a.want(404, "NAME_UNKNOWN", "GET", path, "")
	}
	a.want(404, "BLOB_UPLOAD_UNKNOWN", "PATCH", "blobs/uploads/..", "x")
	a.want(404, "MANIFEST_UNKNOWN", "GET", "manifests/t", "")
	a.want(405, "UNSUPPORTED", "DELETE", "manifests/t", "")
	a.want(200, "", "GET", "/v2/", "")
}

// A collection cannot come between a push's question whether a blob is there
// and its manifest: either the blob is kept, or the manifest refused.
func TestPushBesideCollection(t *testing.T) {
	house := open(t)
	a := asking{t, serving(t, house, Config{})}
	a.want(201, "", "POST", "blobs/uploads/?digest="+sum("{}"), "{}")
	past := time.Now().Add(-2 * time.Hour)
	path := house.blobPath(v1.Hash{Algorithm: "sha256", Hex: strings.TrimPrefix(sum("{}"), "sha256:")})
	none := func([]string) ([]string, error) { return nil, nil }
	collect := func(meanwhile func()) {
		t.Helper()
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
		meanwhile()
		if _, err := house.Collect(t.Context(), none, time.Hour, time.Now(), false); err != nil {
			t.Fatal(err)
		}
	}
	collect(func() { a.want(200, "", "HEAD", "blobs/"+sum("{}"), "") })
	a.want(200, "", "HEAD", "blobs/"+sum("{}"), "")
	kind := []string{"Content-Type", string(types.OCIManifestSchema1)}
	collect(func() {})
	a.want(400, "MANIFEST_BLOB_UNKNOWN", "PUT", "manifests/t", small(nil), kind...)
	a.want(201, "", "POST", "blobs/uploads/?digest="+sum("{}"), "{}")
	a.want(201, "", "PUT", "manifests/t", small(nil), kind...)
	collect(func() {})
	if b, err := os.ReadFile(path); err != nil || !bytes.Equal(b, []byte("{}")) {
		t.Errorf("%q, %v", b, err)
	}
}
