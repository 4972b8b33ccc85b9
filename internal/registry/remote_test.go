package registry

import (
	"io"
	"log"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// server starts a registry and returns its host and port.
func server(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestPushAndPull(t *testing.T) {
	host := server(t)
	l := open(t)
	digest, path, img := put(t, l)
	for _, ref := range []string{host + "/images/t:candidate", host + "/images/t"} {
		if err := l.Push(t.Context(), digest, ref); err != nil {
			t.Fatalf("push to %s: %v", ref, err)
		}
	}
	for _, ref := range []string{host + "/images/t:candidate", host + "/images/t@" + digest} {
		to := open(t)
		got, err := to.Pull(t.Context(), ref)
		if err != nil || got != digest {
			t.Fatalf("pull of %s = %s, %v; want %s", ref, got, err, digest)
		}
		if err := to.Extract(t.Context(), digest, filepath.Join(t.TempDir(), "out")); err != nil {
			t.Error(err)
		}
		if again, existed, err := to.PutImage(t.Context(), path, img); again != digest || !existed || err != nil {
			t.Errorf("storing what was pulled = %s, %v, %v", again, existed, err)
		}
	}
}

// Signatures go with an image, and can be attached where it is without
// fetching its disk.
func TestSignaturesTravel(t *testing.T) {
	host := server(t)
	l := open(t)
	digest, _, _ := put(t, l)
	envelope := Blob{"release.dsse.json", "application/json", []byte("signed")}
	if _, err := l.Attach(digest, SignatureType, nil, envelope); err != nil {
		t.Fatal(err)
	}
	if err := l.Push(t.Context(), digest, host+"/images/t:candidate"); err != nil {
		t.Fatal(err)
	}
	to := open(t)
	got, err := to.PullDescription(t.Context(), host+"/images/t:candidate")
	if err != nil || got != digest {
		t.Fatalf("PullDescription = %s, %v; want %s", got, err, digest)
	}
	if img, err := to.Image(digest); err != nil || img.UKI == nil {
		t.Errorf("the description is %+v, %v", img, err)
	}
	second, err := to.Attach(digest, SignatureType, nil, Blob{"release.dsse.json", "application/json", []byte("again")})
	if err != nil {
		t.Fatal(err)
	}
	if err := to.PushAttached(t.Context(), second, host+"/images/t:candidate"); err != nil {
		t.Fatal(err)
	}
	d, err := name.NewDigest(host + "/images/t@" + digest)
	if err != nil {
		t.Fatal(err)
	}
	index, err := remote.Referrers(d)
	if err != nil {
		t.Fatal(err)
	}
	if im, err := index.IndexManifest(); err != nil || len(im.Manifests) != 2 {
		t.Errorf("the registry has %v, %v; want both signatures", im, err)
	}
}

// skopeo reads what was pushed.
func TestSkopeoReadsThePushed(t *testing.T) {
	testenv.Need(t, "skopeo")
	host := server(t)
	l := open(t)
	digest, _, _ := put(t, l)
	if err := l.Push(t.Context(), digest, host+"/images/t:candidate"); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	out, err := exec.Command("skopeo", "copy", "--src-tls-verify=false", "--preserve-digests",
		"docker://"+host+"/images/t:candidate", "oci:"+to+":candidate").CombinedOutput()
	if err != nil {
		t.Fatalf("skopeo: %v\n%s", err, out)
	}
	c, err := Open(to)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := c.Resolve("candidate"); err != nil || h.String() != digest {
		t.Errorf("skopeo's copy is %s, %v; want %s", h, err, digest)
	}
}

func TestRemoteErrors(t *testing.T) {
	host := server(t)
	l := open(t)
	digest, _, _ := put(t, l)
	ref, err := l.Attach(digest, EvidenceType, nil, Blob{"x", "text/plain", []byte("x")})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"no such image", func() error { _, err := l.Pull(t.Context(), host+"/images/none:x"); return err }(),
			"MANIFEST_UNKNOWN|NAME_UNKNOWN"},
		{"nobody answers", l.Push(t.Context(), digest, "127.0.0.1:1/images/t:x"), "refused"},
		{"not a reference", l.Push(t.Context(), digest, "UPPER CASE"), "could not parse"},
		{"evidence is no image", l.Push(t.Context(), ref, host+"/images/t:x"), "no image"},
		{"a digest of one's own", l.Push(t.Context(), digest, host+"/images/t@"+digest), "cannot be chosen"},
	} {
		found := false
		for w := range strings.SplitSeq(tt.want, "|") {
			found = found || tt.err != nil && strings.Contains(tt.err.Error(), w)
		}
		if !found {
			t.Errorf("%s: %v; want %s", tt.name, tt.err, tt.want)
		}
	}
	if err := l.Push(t.Context(), digest, "UPPER CASE"); command.Status(err) != command.StatusUsage {
		t.Errorf("a bad reference has status %d", command.Status(err))
	}
}
