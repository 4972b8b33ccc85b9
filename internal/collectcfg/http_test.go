package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/metadata"
)

// serve answers requests until the test ends.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s.URL
}

// summary is what a collector delivers, in short.
func summary(docs []Document, err error) string {
	if err != nil {
		kind := "error"
		if IsTemporary(err) {
			kind = "temporary"
		} else if IsUnavailable(err) {
			kind = "unavailable"
		}
		return kind + ": " + err.Error()
	}
	var out []string
	for _, d := range docs {
		out = append(out, d.Name+" "+metadata.JSON(d.Value))
	}
	return strings.Join(out, "; ")
}

// pipeServer is imgpipe as docs/formats.md has it ("Metadata over HTTP"): one
// object, which can be changed.
type pipeServer struct {
	token    string
	waits    bool // answers when the object changes
	version  atomic.Int64
	changed  chan struct{}
	requests atomic.Int64
}

func (p *pipeServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests.Add(1)
	if r.Header.Get("Authorization") != "Bearer "+p.token {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	tag := func() string { return fmt.Sprintf("%q", fmt.Sprint(p.version.Load())) }
	if r.Header.Get("If-None-Match") == tag() && p.waits && r.Header.Get("Prefer") != "" {
		select {
		case <-p.changed:
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Preference-Applied", r.Header.Get("Prefer"))
	}
	w.Header().Set("Etag", tag())
	if r.Header.Get("If-None-Match") == tag() {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	fmt.Fprintf(w, `{"version": %d, "deployments": [{"name": "a/b", "config": {"x": 1}}]}`, p.version.Load())
}

func (p *pipeServer) change() { p.version.Add(1); p.changed <- struct{}{} }

func TestLongPoll(t *testing.T) {
	p := &pipeServer{token: "tok", waits: true, changed: make(chan struct{})}
	url := serve(t, p.ServeHTTP)
	dir := t.TempDir()
	// The seed says where, and with which token, once it is there.
	seed := &NoCloud{Seed: dir + "/seed"}
	q := &Request{Name: "imgpipe", Timeout: 5 * time.Second, Keys: []string{"deployments"}, Seed: seed}
	r := &Runner{
		Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Min: time.Hour, Max: time.Hour, Command: "true",
		Sources: []Source{{"nocloud", seed}, {"imgpipe", q}},
	}
	log, stop := start(t, r)
	await(t, "the start", func() bool { return strings.Contains(log.String(), "source nocloud") })
	time.Sleep(100 * time.Millisecond) // until nothing else wakes the source
	files(t, dir, map[string]string{"later/goldsmith/metadata.json": `{"metadata-url": "` + url + `", "metadata-token": "tok"}`})
	if err := os.Rename(dir+"/later", dir+"/seed"); err != nil {
		t.Fatal(err)
	}
	for v := range 4 {
		await(t, fmt.Sprint("version ", v), func() bool {
			return strings.Contains(read(r.Cache.path("imgpipe")), fmt.Sprintf(`"version": %d,`, v))
		})
		p.change()
	}
	if got := read(r.Cache.path("a%2Fb")); got != "{\n \"x\": 1\n}" {
		t.Errorf("the deployment is %q", got)
	}
	if n := p.requests.Load(); n > 20 {
		t.Errorf("%d requests for five versions", n)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestConditional(t *testing.T) {
	p := &pipeServer{token: "tok", changed: make(chan struct{}, 9)}
	token := filepath.Join(files(t, t.TempDir(), map[string]string{"t": "tok\n"}), "t")
	q := &Request{Name: "request", URL: serve(t, p.ServeHTTP), Timeout: 5 * time.Second, TokenFile: token}
	want := `request {"version": 0, "deployments": [{"name": "a/b", "config": {"x": 1}}]}`
	for range 2 {
		if got := summary(q.Collect(t.Context())); got != want {
			t.Errorf("Collect = %s, want %s", got, want)
		}
	}
	p.change()
	if got := summary(q.Collect(t.Context())); got != strings.Replace(want, "0", "1", 1) {
		t.Errorf("after a change: %s", got)
	}
	// A server that cannot wait is polled.
	n := 0
	if err := q.Notify(t.Context(), func() { n++ }); err != errPolled || n != 1 {
		t.Errorf("Notify = %v, woken %d times", err, n)
	}
	if err := os.WriteFile(token, []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := summary(q.Collect(t.Context())); !strings.HasPrefix(got, "temporary: ") || !strings.HasSuffix(got, ": 403 Forbidden") || strings.Contains(got, "other") {
		t.Errorf("with another token: %s", got)
	}
	if err := os.WriteFile(token, []byte("a\nb: c"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := summary(q.Collect(t.Context())); !strings.Contains(got, "the token is no token") || strings.Contains(got, "b: c") {
		t.Errorf("with a token of two lines: %s", got)
	}
}

// Servers that mean harm, or are ill, cost bounded time and memory, and learn
// nothing.
func TestHostileServers(t *testing.T) {
	other := make(chan string, 100)
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) {
		other <- r.Header.Get("Authorization")
		io.WriteString(w, "{}")
	})
	const timeout = 200 * time.Millisecond
	for name, tc := range map[string]struct {
		h    http.HandlerFunc
		want string
	}{
		"endless body": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := io.WriteString(w, "{"); err == nil; _, err = w.Write(make([]byte, 1<<20)) {
			}
		}, "more than 4 MiB"},
		"slow": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "no answer within 200ms"},
		"drop by drop": {func(w http.ResponseWriter, _ *http.Request) {
			for _, err := io.WriteString(w, "{"); err == nil; _, err = io.WriteString(w, " ") {
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		}, "the answer takes too long"},
		"huge headers": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "server response headers exceeded"},
		"to a file": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "file:///etc/shadow")
			w.WriteHeader(302)
		}, "another server"},
		"to another": {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, http.StatusFound) }, "another server"},
		"round":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x", http.StatusFound) }, "too many redirections"},
		"deep":       {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, strings.Repeat("[", 1<<20)) }, "no JSON"},
		"many": {func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"deployments": [{}`)
			for i := range 2000 {
				fmt.Fprintf(w, `, {"name": %d, "config": {}}`, i)
			}
			io.WriteString(w, "]}")
		}, "more than 1000 deployments"},
		"a list":  {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "[]") }, "no object"},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte{0xff, 0xfe, 0}) }, "no JSON"},
	} {
		token := filepath.Join(files(t, t.TempDir(), map[string]string{"t": "s3cret"}), "t")
		limit := 30 * time.Second // which busy processors do not reach
		if name == "slow" || name == "drop by drop" {
			limit = timeout
		}
		q := &Request{Name: "request", URL: serve(t, tc.h) + "/?key=hidden", Timeout: limit, TokenFile: token, Keys: []string{"deployments"}}
		got := summary(q.Collect(t.Context()))
		if !strings.HasPrefix(got, "temporary: ") || !strings.Contains(got, tc.want) || strings.Contains(got, "s3cret") || strings.Contains(got, "hidden") {
			t.Errorf("%s: %s, want %q", name, got, tc.want)
		}
	}
	select {
	case h := <-other:
		t.Errorf("the other server was asked, with %q", h)
	default:
	}
	for _, bad := range []string{"file:///etc/passwd", "http://", "://", "http://u:s3cret@\x00/", "ftp://x/"} {
		got := summary((&Request{Name: "request", URL: bad, Timeout: timeout}).Collect(t.Context()))
		if got != "temporary: not the URL of an HTTP server" {
			t.Errorf("%q: %s", bad, got)
		}
	}
}

// imds is the EC2 service, in either version, with a tree of paths.
func imds(t *testing.T, v2 bool, tree map[string]string) (url string, asked *[]string) {
	asked = &[]string{}
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		*asked = append(*asked, r.Method+" "+r.URL.Path)
		switch body, ok := tree[strings.TrimPrefix(r.URL.Path, "/latest/meta-data/")]; {
		case r.Method == http.MethodPut && v2 && r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") != "":
			io.WriteString(w, "tok==")
		case r.Method == http.MethodPut:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case v2 && r.Header.Get("X-Aws-Ec2-Metadata-Token") != "tok==":
			w.WriteHeader(http.StatusUnauthorized)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			io.WriteString(w, body)
		}
	}) + "/latest/meta-data", asked
}

func TestEC2(t *testing.T) {
	tree := map[string]string{
		"": "ami-id\niam/\npublic-keys/\n../up\n\na?b\nsub/x", "ami-id": "ami-1", "iam/": "info\nsecurity-credentials/", "iam/info": "i",
		"iam/security-credentials/": "role", "iam/security-credentials/role": "secret", "public-keys/": "0=me", "public-keys/0/": "openssh-key", "public-keys/0/openssh-key": "k",
	}
	want := `ec2 {"ami-id": "ami-1", "iam": {"info": "i"}, "public-keys": {"0": {"openssh-key": "k"}}}`
	for _, v2 := range []bool{false, true} {
		url, asked := imds(t, v2, tree)
		e := &EC2{URL: url, Timeout: 5 * time.Second, devices: devices(t, nil)}
		for range 2 {
			if got := summary(e.Collect(t.Context())); got != want {
				t.Errorf("v2 %v: %s", v2, got)
			}
		}
		wantAsked := []string{
			"PUT /latest/api/token", "GET /latest/meta-data/", "GET /latest/meta-data/ami-id", "GET /latest/meta-data/iam/", "GET /latest/meta-data/iam/info",
			"GET /latest/meta-data/public-keys/", "GET /latest/meta-data/public-keys/0/", "GET /latest/meta-data/public-keys/0/openssh-key",
		}
		if d := cmp.Diff(wantAsked, *asked); d != "" {
			t.Errorf("v2 %v: requests (-want +got):\n%s", v2, d)
		}
	}
	for want, h := range map[string]http.HandlerFunc{
		"nested too deeply": func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a/") },
		"more than 2000 values": func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/") {
				for i := range 100_000 {
					fmt.Fprintf(w, "k%d\n", i)
				}
			}
		},
	} {
		e := &EC2{URL: serve(t, h), Timeout: 5 * time.Second, devices: devices(t, nil)}
		if got := summary(e.Collect(t.Context())); !strings.HasPrefix(got, "temporary: ") || !strings.HasSuffix(got, want) {
			t.Errorf("%.200s; want %s", got, want)
		}
	}
}

func TestCFNAnswers(t *testing.T) {
	for text, want := range map[string]string{
		"": "no XML", "<a/>": "no DescribeStackResourceResult", "<a><DescribeStackResourceResult/></a>": "no DescribeStackResourceResult",
		strings.Repeat("<a>", 100_000): "no XML", `<!DOCTYPE x [<!ENTITY a "b"><!ENTITY c "&a;&a;">]><a>&c;</a>`: "no XML",
	} {
		if _, err := stackField([]byte(text), "Metadata"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.100q: %v, want %q", text, err, want)
		}
	}
	c := &CFN{URL: "http://127.0.0.1:1/v1/", Stack: "s", Paths: []string{"r.Metadata"}, KeyID: "id", SecretKey: "s3cret", Timeout: time.Second}
	if got := summary(c.Collect(t.Context())); !strings.HasPrefix(got, "temporary: GET http://127.0.0.1:1/v1/: dial tcp") || strings.Contains(got, "Signature") || strings.Contains(got, "s3cret") {
		t.Errorf("no server: %s", got)
	}
}

func FuzzEC2(f *testing.F) {
	f.Add("ami-id\nblock/\n0=x", "v")
	f.Add("a/\n", "b/")
	f.Fuzz(func(t *testing.T, root, value string) {
		w := walkText(t, root, value)
		tree, err := w.directory("http://x/", 0)
		if err == nil {
			_ = metadata.Indented(tree)
		}
	})
}

// textServer answers the root with one text and everything else with another.
type textServer struct{ root, value string }

func (s textServer) RoundTrip(r *http.Request) (*http.Response, error) {
	body := s.value
	if r.URL.Path == "/" {
		body = s.root
	}
	if r.URL.Host != "x" {
		return nil, errors.New("another server was asked")
	}
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(body)), Header: http.Header{}, Request: r}, nil
}

func walkText(t *testing.T, root, value string) *walk {
	for _, s := range []string{root, value} {
		for line := range strings.SplitSeq(s, "\n") {
			if key, _, ok := ec2Key(line); ok && (strings.Contains(key, "/") || key == ".." || key == "") {
				t.Errorf("key %q of %q", key, line)
			}
		}
	}
	e := &EC2{URL: "http://x", Timeout: time.Second, web: &web{&http.Client{Transport: textServer{root, value}}, time.Second, false}}
	return &walk{EC2: e, ctx: t.Context()}
}

func FuzzCFN(f *testing.F) {
	f.Add([]byte("<R><DescribeStackResourceResult><StackResourceDetail><Metadata>{}</Metadata></StackResourceDetail></DescribeStackResourceResult></R>"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		text, err := stackField(answer, "Metadata")
		if err != nil {
			return
		}
		if v, err := metadata.Parse("x", []byte(text)); err == nil {
			if o, ok := v.(*metadata.Object); ok {
				docs, _ := explode("cfn", o, []string{"deployments"})
				for _, d := range docs {
					if strings.ContainsAny(d.Name, "/\x00") {
						t.Errorf("document %q", d.Name)
					}
				}
			}
		}
	})
}

func FuzzMetaData(f *testing.F) {
	f.Add([]byte("instance-id: x\nlocal-hostname: y\n"), []byte(`{"a": 1}`))
	f.Add([]byte("a: &a [*a]\n"), []byte("{"))
	f.Fuzz(func(t *testing.T, metaData, metadataJSON []byte) {
		d := seedDocument(metaData, metadataJSON)
		if d.Raw == nil {
			_ = metadata.Indented(d.Value)
		}
	})
}
