package fetch

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
)

// edit is a server's answer that a test changes before it goes out.
type edit struct {
	http.ResponseWriter
	change func([]byte) []byte
	status func(int) int
}

func (e *edit) WriteHeader(code int) {
	if e.change != nil {
		e.Header().Del("Content-Length")
	}
	if e.status != nil {
		code = e.status(code)
	}
	e.ResponseWriter.WriteHeader(code)
}

func (e *edit) Write(b []byte) (int, error) {
	out := b
	if e.change != nil {
		out = e.change(bytes.Clone(b))
	}
	if _, err := e.ResponseWriter.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// disk is the disk blob's name in the layout.
func (s *sample) disk(t *testing.T) string {
	t.Helper()
	return s.open(t, "oci:"+s.layout.Dir()).disk.Digest.Hex
}

// Servers that do badly in a way that can be lived with.
// What asks again says so, and what cannot be asked is refused.
func TestSaysThatItAsksAgain(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	digest := "@sha256:" + strings.Repeat("0", 64)
	var said []string
	patience := impatient
	patience.say = func(format string, args ...any) { said = append(said, fmt.Sprintf(format, args...)) }
	if _, err := open(t.Context(), "http://"+address+"/demo"+digest, patience); err == nil {
		t.Error("nobody answers, and no error")
	}
	if len(said) != impatient.tries-1 || !strings.Contains(said[0], "connection refused: asked again in 1ms") {
		t.Errorf("said %q", said)
	}
	for _, ref := range []string{"ftp://host/demo", "file:///demo"} {
		if _, err := Open(t.Context(), ref+digest, nil); command.Status(err) != command.StatusUsage ||
			!strings.Contains(err.Error(), "neither http nor https") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestPoorServers(t *testing.T) {
	s := newSample(t)
	blob := s.disk(t)
	var asked atomic.Int64
	for name, wrap := range map[string]func(http.Handler, http.ResponseWriter, *http.Request){
		"ignores ranges": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			r.Header.Del("Range")
			h.ServeHTTP(w, r)
		},
		"gives more": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			if from, _, ok := strings.Cut(r.Header.Get("Range"), "-"); ok {
				r.Header.Set("Range", from+"-")
			}
			h.ServeHTTP(w, r)
		},
		"ends early": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			left := 200_000
			h.ServeHTTP(&edit{ResponseWriter: w, change: func(b []byte) []byte {
				b = b[:min(left, len(b))]
				left -= len(b)
				return b
			}}, r)
		},
		"fails now and then": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			if asked.Add(1)%3 != 0 {
				http.Error(w, "busy", http.StatusServiceUnavailable)
				return
			}
			h.ServeHTTP(w, r)
		},
		"sends elsewhere": func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			if !strings.HasPrefix(r.URL.Path, "/elsewhere/") {
				http.Redirect(w, r, "/elsewhere"+r.URL.Path, http.StatusTemporaryRedirect)
				return
			}
			http.StripPrefix("/elsewhere", h).ServeHTTP(w, r)
		},
	} {
		site := s.site(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, blob) {
					wrap(h, w, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		// Every other stretch is there, so that many ranges are asked for.
		dst := make(memory, len(s.root))
		for i := 0; i+400<<10 < len(dst); i += 800 << 10 {
			copy(dst[i:i+400<<10], s.root[i:])
		}
		im := s.open(t, site)
		st, err := im.Write(t.Context(), Root, dst, Options{})
		if err != nil || !bytes.Equal(dst, s.root) || st.Kept == 0 {
			t.Errorf("%s: the root differs (%v, %+v)", name, err, st)
		}
		if name == "ignores ranges" && st.Fetched > im.disk.Size+64<<10 {
			t.Errorf("%s: the blob was read again and again: %+v", name, st)
		}
	}
}

// Servers that do too badly are given up, with the reason, and nothing that is
// wrong is written.
func TestHostileServers(t *testing.T) {
	s := newSample(t)
	blob := s.disk(t)
	for name, tt := range map[string]struct {
		wrap func(http.Handler, http.ResponseWriter, *http.Request)
		want string
	}{
		"wrong bytes": {func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(&edit{ResponseWriter: w, change: func(b []byte) []byte { b[len(b)/2] ^= 1; return b }}, r)
		}, "chunk at"},
		"another range": {func(h http.Handler, w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", "bytes=0-")
			h.ServeHTTP(w, r)
		}, "asked for bytes from"},
		"stalls": {func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes "+strings.TrimPrefix(r.Header.Get("Range"), "bytes=")+"/*")
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "stalls"},
		"does not answer": {func(_ http.Handler, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "stalls"},
		"gives nothing":   {func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }, "middle of a chunk"},
		"has it no more":  {func(_ http.Handler, w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) }, "404"},
		"is down":         {func(_ http.Handler, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }, "502"},
		"goes in circles": {func(_ http.Handler, w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
		}, "redirects"},
	} {
		site := s.site(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, blob) {
					tt.wrap(h, w, r)
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		dst := make(memory, len(s.uki))
		im := s.open(t, site)
		if tt.want == "stalls" {
			im.src.(*layout).files.(website).web.timing.stall = 50 * time.Millisecond
		}
		_, err := im.Write(t.Context(), UKI, dst, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %q", name, err, tt.want)
		}
		for i, b := range dst {
			if b != 0 && b != s.uki[i] {
				t.Errorf("%s: a byte that was not verified was written", name)
				break
			}
		}
	}
}

// A blob is what its digest says, and as long as its manifest says.
func TestDamagedLayout(t *testing.T) {
	for _, part := range []string{"manifest", "config", "index"} {
		for name, damage := range map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
			"longer":  func(b []byte) []byte { return append(b, make([]byte, 5<<20)...) },
			"shorter": func(b []byte) []byte { return b[:len(b)-1] },
		} {
			s := newSample(t)
			im := s.open(t, "oci:"+s.layout.Dir())
			m, err := im.manifest(t.Context(), im.digest)
			if err != nil {
				t.Fatal(err)
			}
			hex := map[string]string{"manifest": im.digest.Hex, "config": m.Config.Digest.Hex, "index": im.index.Digest.Hex}[part]
			file := filepath.Join(s.layout.Dir(), "blobs", "sha256", hex)
			b, err := os.ReadFile(file)
			if err := errors.Join(err, os.WriteFile(file, damage(b), 0o644)); err != nil {
				t.Fatal(err)
			}
			for _, source := range []string{"oci:" + s.layout.Dir(), s.site(t, nil)} {
				if name == "longer" && part != "manifest" && !strings.HasPrefix(source, "oci:") {
					continue // only what is asked for is read
				}
				im, err := open(t.Context(), s.at(source), impatient)
				if err == nil {
					_, err = im.Write(t.Context(), UKI, make(memory, len(s.uki)), Options{})
				}
				if err == nil {
					t.Errorf("%s: a %s that is %s was taken", source, part, name)
				}
			}
		}
	}
}

func TestBadReferences(t *testing.T) {
	s := newSample(t)
	evidence, err := s.layout.Attach(s.digest, registry.EvidenceType, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := "oci:" + s.layout.Dir()
	for ref, want := range map[string]string{
		dir:                        "no image by its digest",
		dir + ":candidate":         "no image by its digest",
		dir + "@sha256:12":         "no image by its digest",
		"@" + s.digest:             "no image by its digest",
		"oci:/nowhere@" + s.digest: "no such file",
		dir + "@sha256:" + strings.Repeat("0", 64): "no such file",
		dir + "@" + evidence:                       "no image with a release description",
		"http://@" + s.digest:                      "not a URL",
		"UPPER CASE@" + s.digest:                   "name oci:DIRECTORY",
	} {
		im, err := open(t.Context(), ref, impatient)
		if err == nil || !strings.Contains(err.Error()+command.HintOf(err), want) {
			t.Errorf("Open(%q) = %v, %v; want %q", ref, im, err, want)
		}
	}
}

// Links in a layout's directory do not lead out of it.
func TestLinksOut(t *testing.T) {
	s := newSample(t)
	blob := filepath.Join(s.layout.Dir(), "blobs", "sha256", strings.TrimPrefix(s.digest, "sha256:"))
	away := filepath.Join(t.TempDir(), "away")
	if err := errors.Join(os.Rename(blob, away), os.Symlink(away, blob)); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t.Context(), s.at("oci:"+s.layout.Dir()), impatient); err == nil {
		t.Error("a blob outside of the layout was read")
	}
}

// Signatures that cannot be read hide none that can; other things are left out.
func TestEnvelopesAmongOthers(t *testing.T) {
	s := newSample(t)
	attach := func(kind, text string) string {
		t.Helper()
		d, err := s.layout.Attach(s.digest, kind, nil, registry.Blob{Title: "x", MediaType: "text/plain", Content: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	// One of another image, in an index that does not say so.
	other := store(t, s.layout.Dir(), "2", noise(9, 8192), noise(9, 100))
	blob := registry.Blob{Title: "x", MediaType: "text/plain", Content: []byte("another's")}
	if _, err := s.layout.Attach(other.digest, registry.SignatureType, nil, blob); err != nil {
		t.Fatal(err)
	}
	index := filepath.Join(s.layout.Dir(), "index.json")
	b, err := os.ReadFile(index)
	if err := errors.Join(err, os.WriteFile(index, bytes.ReplaceAll(b, []byte(registry.AnnotationSubject), []byte("x")), 0o644)); err != nil {
		t.Fatal(err)
	}
	attach(registry.SignatureType, "first")
	attach(registry.EvidenceType, "evidence")
	attach(registry.SignatureType, strings.Repeat("too long", 1<<17))
	gone := attach(registry.SignatureType, "gone")
	attach(registry.SignatureType, "last")
	h, err := v1.NewHash(gone)
	if err := errors.Join(err, os.Remove(filepath.Join(s.layout.Dir(), "blobs", "sha256", h.Hex))); err != nil {
		t.Fatal(err)
	}
	got, err := s.open(t, "oci:"+s.layout.Dir()).Envelopes(t.Context())
	if err != nil || len(got) != 2 || string(got[0]) != "last" || string(got[1]) != "first" {
		t.Errorf("Envelopes = %q, %v", got, err)
	}
}

// A registry's login that does not come to its end is given up.
func TestLoginThatStalls(t *testing.T) {
	s := newSample(t)
	var server *httptest.Server
	var asked atomic.Int64
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			asked.Add(1)
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="test"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer server.Close()
	timing := impatient
	timing.stall = 50 * time.Millisecond
	ref := s.at(strings.TrimPrefix(server.URL, "http://") + "/images/demo")
	if _, err := open(t.Context(), ref, timing); !errors.Is(err, errStalled) || int(asked.Load()) != timing.tries {
		t.Errorf("%v; the login was tried %d times", err, asked.Load())
	}
}
