package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"

	"goldsmith/internal/registry"
	"goldsmith/internal/release"
	"goldsmith/internal/trust"
)

// impatient lets tests of bad servers end soon.
var impatient = timing{stall: time.Minute, pause: time.Millisecond, tries: 3}

// noise is n bytes that no encoder makes shorter, the same for the same seed.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// sample is an image in a layout, and what its parts are.
type sample struct {
	layout    *registry.Layout
	digest    string
	root, uki []byte
}

// store makes an image of a root and a kernel image and puts it into the layout
// in dir.
func store(t testing.TB, dir, version string, root, uki []byte) *sample {
	t.Helper()
	const ukiAt, rootAt = 512, 1 << 20
	disk := make([]byte, rootAt+len(root)+1<<20)
	copy(disk[ukiAt:], uki)
	copy(disk[rootAt:], root)
	sum, ukiSum := sha256.Sum256(disk), sha256.Sum256(uki)
	path := filepath.Join(t.TempDir(), "disk.raw")
	l, err := registry.Open(dir)
	if err := errors.Join(err, os.WriteFile(path, disk, 0o644)); err != nil {
		t.Fatal(err)
	}
	hash := hex.EncodeToString(sum[:])
	digest, _, err := l.PutImage(t.Context(), path, registry.Image{
		Name: "demo", Version: version, Arch: "amd64", Size: int64(len(disk)), SHA256: hash,
		Root: &release.Root{Offset: rootAt, Size: int64(len(root)), RootHash: hash, Salt: hash,
			UUID: "01234567-89ab-cdef-0123-456789abcdef"},
		UKI: &release.UKI{ID: "demo_" + version, Offset: ukiAt, Size: int64(len(uki)),
			SHA256: hex.EncodeToString(ukiSum[:])},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &sample{l, digest, root, uki}
}

// newSample has data, zeros, and data twice.
func newSample(t testing.TB) *sample {
	t.Helper()
	twice := noise(1, 300<<10)
	root := slices.Concat(noise(2, 1<<20), twice, make([]byte, 3<<20+200<<10), twice, noise(3, 2<<20))
	root = append(root, make([]byte, 4096-len(root)%4096)...)
	return store(t, filepath.Join(t.TempDir(), "oci"), "1", root, noise(4, 700_001))
}

// at is a reference to the sample.
func (s *sample) at(source string) string { return source + "@" + s.digest }

// site serves the sample's layout through wrap.
func (s *sample) site(t testing.TB, wrap func(http.Handler) http.Handler) string {
	t.Helper()
	h := http.FileServer(http.Dir(s.layout.Dir()))
	if wrap != nil {
		h = wrap(h)
	}
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

func (s *sample) open(t testing.TB, source string) *Image {
	t.Helper()
	im, err := open(t.Context(), s.at(source), impatient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

// memory is a destination that is a slot: it can be read, and has a size.
type memory []byte

func (m memory) WriteAt(b []byte, off int64) (int, error) { return copy(m[off:], b), nil }
func (m memory) ReadAt(b []byte, off int64) (int, error)  { return copy(b, m[off:]), nil }

// writeOnly hides that a destination can be read.
type writeOnly struct{ io.WriterAt }

// Every kind of source gives the same.
func TestSources(t *testing.T) {
	s := newSample(t)
	key, err := trust.NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := trust.Sign(s.digest, trust.Predicate{Name: "demo", Version: "1", Arch: "amd64"}, key)
	if err != nil {
		t.Fatal(err)
	}
	other := store(t, s.layout.Dir(), "2", noise(9, 8192), noise(9, 100))
	for digest, e := range map[string][]byte{s.digest: envelope, other.digest: []byte("another's")} {
		blob := registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: e}
		if _, err := s.layout.Attach(digest, registry.SignatureType, nil, blob); err != nil {
			t.Fatal(err)
		}
	}
	sources := map[string]string{"directory": "oci:" + s.layout.Dir(), "website": s.site(t, nil),
		"below a URL": s.site(t, func(h http.Handler) http.Handler {
			return http.StripPrefix("/images/", h)
		}) + "/images/"}
	for name, referrers := range map[string]bool{"registry": true, "registry without referrers": false} {
		server := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)),
			ggcr.WithReferrersSupport(referrers)))
		t.Cleanup(server.Close)
		sources[name] = strings.TrimPrefix(server.URL, "http://") + "/images/demo"
		if err := s.layout.Push(t.Context(), s.digest, sources[name]); err != nil {
			t.Fatal(err)
		}
	}
	for name, source := range sources {
		im := s.open(t, source)
		if r := im.Release(); r.Version != "1" || r.UKI.ID != "demo_1" || im.Digest() != s.digest {
			t.Errorf("%s: release %+v of %s", name, r, im.Digest())
		}
		got, err := im.Envelopes(t.Context())
		if err != nil || len(got) != 1 || !bytes.Equal(got[0], envelope) {
			t.Errorf("%s: envelopes %q, %v", name, got, err)
		}
		for part, want := range map[Part][]byte{Root: s.root, UKI: s.uki} {
			dst := memory(noise(99, len(want)))
			st, err := im.Write(t.Context(), part, dst, Options{})
			if err != nil || !bytes.Equal(dst, want) {
				t.Errorf("%s: part %d differs (%v)", name, part, err)
			}
			if st.Zeros+st.Unique != int64(len(want)) || st.Fetched == 0 {
				t.Errorf("%s: part %d: %+v", name, part, st)
			}
		}
	}
}

// What the seeds hold does not travel, at whatever place it is in them.
func TestSeeds(t *testing.T) {
	s := newSample(t)
	old := slices.Concat(noise(7, 40<<10), s.root[1<<20:3<<20], s.root[3<<20:])
	im := s.open(t, "oci:"+s.layout.Dir())
	all, err := im.Missing(t.Context(), Root)
	if err != nil {
		t.Fatal(err)
	}
	seeds := []Seed{{bytes.NewReader(old), int64(len(old))}, {bytes.NewReader(s.uki), int64(len(s.uki)) + 100}}
	missing, err := im.Missing(t.Context(), Root, seeds...)
	if err != nil || missing < 1<<20 || missing > all-2<<20 {
		t.Errorf("%d of %d bytes are missing (%v)", missing, all, err)
	}
	dst := make(memory, len(s.root))
	var last int64
	st, err := im.Write(t.Context(), Root, dst, Options{Seeds: seeds, Progress: func(done, total int64) {
		if done <= last || total != int64(len(s.root)) {
			t.Errorf("progress goes from %d to %d of %d", last, done, total)
		}
		last = done
	}})
	if err != nil || !bytes.Equal(dst, s.root) || last != int64(len(s.root)) {
		t.Fatalf("the root differs, or progress ends at %d (%v)", last, err)
	}
	if st.Fetched < missing || st.Fetched > missing+maxGap || st.Seeded == 0 {
		t.Errorf("%+v; %d bytes were missing", st, missing)
	}
	// The destination is its own seed, though it is overwritten meanwhile.
	dst = memory(append(noise(8, 4096), s.root[:len(s.root)-4096]...))
	st, err = im.Write(t.Context(), Root, dst, Options{Seeds: []Seed{{bytes.NewReader(dst), int64(len(dst))}}})
	if err != nil || !bytes.Equal(dst, s.root) {
		t.Errorf("written over what was its seed, the root differs (%v, %+v)", err, st)
	}
}

// reads counts what is read of a seed.
type reads struct {
	io.ReaderAt
	n int
}

func (r *reads) ReadAt(b []byte, off int64) (int, error) {
	n, err := r.ReaderAt.ReadAt(b, off)
	r.n += n
	return n, err
}

// A slot is cut once for all parts, and not at all for what a smaller seed has.
func TestSeedsAreCutOnce(t *testing.T) {
	s := newSample(t)
	im := s.open(t, "oci:"+s.layout.Dir())
	slot, kernel := &reads{bytes.NewReader(s.root), 0}, &reads{bytes.NewReader(s.uki), 0}
	seeds := []Seed{{slot, int64(len(s.root))}, {kernel, int64(len(s.uki))}}
	for _, step := range []struct {
		part         Part
		slot, kernel int
	}{
		{UKI, 0, len(s.uki)},
		{Root, len(s.root), len(s.uki)},
		{Root, len(s.root), len(s.uki)},
	} {
		if n, err := im.Missing(t.Context(), step.part, seeds...); n != 0 || err != nil {
			t.Errorf("part %d: %d bytes are missing (%v)", step.part, n, err)
		}
		if slot.n != step.slot || kernel.n != step.kernel {
			t.Errorf("part %d: %d bytes of the slot and %d of the kernel image were read; want %d and %d",
				step.part, slot.n, kernel.n, step.slot, step.kernel)
		}
	}
}

// A Write that was killed goes on: by what is in place, or else by the cache.
func TestResume(t *testing.T) {
	s := newSample(t)
	dir := t.TempDir()
	for name, writable := range map[string]bool{"in place": false, "cache": true} {
		dst := make(memory, len(s.root))
		var to io.WriterAt = dst
		o := Options{}
		if writable {
			to, o.Cache = writeOnly{dst}, dir
		}
		ctx, cancel := context.WithCancel(t.Context())
		o.Progress = func(done, total int64) {
			if done > total*3/4 {
				cancel()
			}
		}
		im := s.open(t, "oci:"+s.layout.Dir())
		first, err := im.Write(ctx, Root, to, o)
		if !errors.Is(err, context.Canceled) || first.Unique == 0 {
			t.Fatalf("%s: the first ends with %v, %+v", name, err, first)
		}
		o.Progress = nil
		second, err := im.Write(t.Context(), Root, to, o)
		if err != nil || !bytes.Equal(dst, s.root) {
			t.Fatalf("%s: the root differs (%v)", name, err)
		}
		if second.Kept+second.Cached < first.Unique ||
			second.Fetched > int64(len(s.root))-first.Unique-second.Zeros+maxGap {
			t.Errorf("%s: after %+v: %+v", name, first, second)
		}
	}
	// A cache that was damaged, or cut short, does no harm.
	file := filepath.Join(dir, cacheName)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { b[1000] ^= 1; return b },
		"header":  func(b []byte) []byte { b[17] ^= 0xff; b[18] = 0xff; return b },
		"short":   func(b []byte) []byte { return b[:len(b)/2] },
	} {
		if err := os.WriteFile(file, damage(slices.Clone(b)), 0o600); err != nil {
			t.Fatal(err)
		}
		dst := make(memory, len(s.root))
		st, err := s.open(t, "oci:"+s.layout.Dir()).Write(t.Context(), Root, writeOnly{dst}, Options{Cache: dir})
		if err != nil || !bytes.Equal(dst, s.root) || st.Fetched == 0 {
			t.Errorf("cache %s: the root differs (%v), %+v", name, err, st)
		}
	}
}

// A registry that wants a login gets that of docker(1), for ranges too, and one
// that it refuses is not asked again.
func TestLogin(t *testing.T) {
	s := newSample(t)
	var refused atomic.Int64
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "machine" || password != "secret" {
			refused.Add(1)
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	login := func(secret string) {
		t.Helper()
		auth := base64.StdEncoding.EncodeToString([]byte("machine:" + secret))
		text := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, auth)
		if err := os.WriteFile(filepath.Join(config, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	login("secret")
	if err := s.layout.Push(t.Context(), s.digest, host+"/images/demo"); err != nil {
		t.Fatal(err)
	}
	dst := make(memory, len(s.uki))
	if _, err := s.open(t, host+"/images/demo").Write(t.Context(), UKI, dst, Options{}); err != nil ||
		!bytes.Equal(dst, s.uki) {
		t.Errorf("logged in, the kernel image differs (%v)", err)
	}
	login("wrong")
	before := refused.Load()
	if _, err := open(t.Context(), s.at(host+"/images/demo"), impatient); err == nil ||
		!strings.Contains(err.Error(), "401") {
		t.Errorf("with a wrong login: %v", err)
	}
	if n := refused.Load() - before; n > 2 {
		t.Errorf("the registry was asked %d times", n)
	}
}
