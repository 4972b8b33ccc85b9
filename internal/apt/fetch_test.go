package apt

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// archive is a small one of our own, signed and served over HTTP.
type archive struct {
	t       *testing.T
	url     string
	keyring string // in ASCII armour
	home    string // of gpg
	mu      sync.Mutex
	files   map[string][]byte
	asked   []string
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	testenv.Need(t, "gpg", "gpgv")
	home, err := os.MkdirTemp("", "gpg") // short: its socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	a := &archive{t: t, home: home, keyring: filepath.Join(t.TempDir(), "key.asc"), files: map[string][]byte{}}
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
		_ = os.RemoveAll(home)
	})
	a.gpg("", "--quick-generate-key", "archive@example.org", "ed25519", "sign", "never")
	if err := os.WriteFile(a.keyring, a.gpg("", "--export", "--armor"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.asked = append(a.asked, r.URL.Path)
		b, ok := a.files[r.URL.Path]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(s.Close)
	a.url = s.URL
	a.publish("Suite: stable\nCodename: test\n")
	return a
}

func (a *archive) gpg(input string, args ...string) []byte {
	a.t.Helper()
	cmd := exec.Command("gpg", append([]string{"--homedir", a.home, "--batch", "--yes", "--passphrase", ""}, args...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		a.t.Fatalf("gpg %v: %v", args, err)
	}
	return out
}

// publish writes the archive's index with these fields of its Release file.
func (a *archive) publish(fields string) {
	deb := []byte("not really a package")
	packages := fmt.Sprintf("Package: base\nVersion: 1\nArchitecture: amd64\nEssential: yes\nFilename: pool/b+1.deb\n"+
		"Size: %d\nSHA256: %x\n", len(deb), sha256.Sum256(deb))
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	_, _ = w.Write([]byte(packages))
	_ = w.Close()
	release := fields + "Architectures: amd64\nComponents: main\nSHA256:\n" +
		fmt.Sprintf(" %x %d main/binary-amd64/Packages\n", sha256.Sum256([]byte(packages)), len(packages)) +
		fmt.Sprintf(" %x %d main/binary-amd64/Packages.gz\n", sha256.Sum256(gz.Bytes()), gz.Len())
	a.files["/dists/test/InRelease"] = a.gpg(release, "--clearsign")
	a.files["/dists/test/Release"] = []byte(release)
	a.files["/dists/test/main/binary-amd64/Packages.gz"] = gz.Bytes()
	a.files["/pool/b+1.deb"] = deb
}

func (a *archive) options(line string) Options {
	a.t.Helper()
	sources, err := ParseSources([]string{strings.ReplaceAll(line, "URL", a.url)}, "test", "amd64")
	if err != nil {
		a.t.Fatal(err)
	}
	return Options{Suite: "test", Arch: "amd64", Sources: sources, Keyrings: []string{a.keyring}, Cache: a.t.TempDir()}
}

func TestResolveAndFetch(t *testing.T) {
	a := newArchive(t)
	o := a.options("URL")
	plan, err := Resolve(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Packages) != 1 || plan.Packages[0].URL != a.url+"/pool/b+1.deb" || plan.Size() != 20 {
		t.Errorf("the plan is %+v", plan)
	}
	b, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParsePlan(b)
	if d := cmp.Diff(plan, again); d != "" || err != nil {
		t.Errorf("read again: %v\n%s", err, d)
	}
	// Without a network, the same is to be had once it is in the cache.
	o.Offline = true
	off := FetchOptions{Offline: true}
	if err := plan.Fetch(t.Context(), o.Cache, off); err == nil || !strings.Contains(err.Error(), "(offline)") ||
		!strings.HasPrefix(err.Error(), "package base 1: ") || command.Status(err) != command.StatusMissing {
		t.Errorf("offline, and not in the cache: %v", err)
	}
	if err := plan.Fetch(t.Context(), o.Cache, FetchOptions{}); err != nil {
		t.Fatal(err)
	}
	a.asked = nil
	offline, err := Resolve(t.Context(), o)
	if d := cmp.Diff(plan, offline); d != "" || err != nil {
		t.Errorf("offline: %v\n%s", err, d)
	}
	if err := plan.Fetch(t.Context(), o.Cache, off); err != nil || len(a.asked) > 0 {
		t.Errorf("offline: %v; asked for %v", err, a.asked)
	}
	// A damaged file is fetched anew.
	file := plan.Packages[0].File(o.Cache)
	if err := os.WriteFile(file, []byte("not really a packagE"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := plan.Fetch(t.Context(), o.Cache, off); err == nil {
		t.Error("a damaged file was taken")
	}
	if err := plan.Fetch(t.Context(), o.Cache, FetchOptions{}); err != nil || len(a.asked) != 1 {
		t.Errorf("after damage: %v; asked for %v", err, a.asked)
	}
	o.Cache = t.TempDir()
	if _, err := Resolve(t.Context(), o); err == nil || !strings.Contains(err.Error(), "InRelease: not in the cache") {
		t.Errorf("offline with nothing: %v", err)
	}
}

// What is not signed, not for this or not whole is not used.
func TestRefused(t *testing.T) {
	a := newArchive(t)
	for _, tt := range []struct {
		name, source string
		change       func()
		want         string // empty means that it works
	}{
		{"good", "URL", func() {}, ""},
		{"of another suite", "URL", func() { a.publish("Suite: stable\nCodename: other\n") },
			"it is for the suite stable (other)"},
		{"valid", "URL", func() { a.publish("Valid-Until: Sat, 01 Jan 2101 00:00:00 UTC\n") }, ""},
		{"too old", "URL", func() { a.publish("Valid-Until: Sat, 1 Jan 2000 00:00:00 UTC\n") },
			"it was valid until Sat, 1 Jan 2000"},
		{"too old is well", "deb [check-valid-until=no] URL test main",
			func() { a.publish("Valid-Until: Sat, 01 Jan 2000 00:00:00 UTC\n") }, ""},
		{"no component", "deb URL test contrib", func() {}, "does not list it"},
		{"changed", "URL", func() {
			b := bytes.Replace(a.files["/dists/test/InRelease"], []byte("stable"), []byte("stablE"), 1)
			a.files["/dists/test/InRelease"] = b
		}, "it does not match the file"},
		{"something before the signed text", "URL", func() {
			a.files["/dists/test/InRelease"] = append([]byte("Suite: evil\nSHA256:\n "+strings.Repeat("0", 64)+
				" 1 main/binary-amd64/Packages\n\n"), a.files["/dists/test/InRelease"]...)
		}, ""}, // and not read: the result is the signed one
		{"not signed", "URL", func() {
			a.files["/dists/test/InRelease"] = a.files["/dists/test/Release"]
		}, "the signature is not good"},
		{"not signed and trusted", "deb [trusted=yes] URL test main", func() {
			delete(a.files, "/dists/test/InRelease")
		}, ""},
		{"signed and trusted", "deb [trusted=yes] URL test main", func() {}, ""},
		{"signed beside", "URL", func() {
			delete(a.files, "/dists/test/InRelease")
			release := string(a.files["/dists/test/Release"])
			a.files["/dists/test/Release.gpg"] = a.gpg(release, "--detach-sign")
		}, ""},
		{"signature missing", "URL", func() { delete(a.files, "/dists/test/InRelease") }, "Release.gpg: not found"},
		{"index changed", "URL", func() { a.files["/dists/test/main/binary-amd64/Packages.gz"][20] ^= 1 }, "has SHA-256"},
		{"by another key", "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] URL test main",
			func() {}, "no keyring has the key"},
	} {
		clear(a.files)
		a.publish("Suite: stable\nCodename: test\n")
		tt.change()
		o := a.options(tt.source)
		plan, err := Resolve(t.Context(), o)
		switch {
		case tt.want == "" && (err != nil || len(plan.Packages) != 1):
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v; want %s", tt.name, err, tt.want)
		case tt.want != "" && !strings.HasPrefix(err.Error(), "package source "+a.url):
			t.Errorf("%s: does not name the source: %v", tt.name, err)
		}
	}
}

func TestParsePlanBad(t *testing.T) {
	sum := strings.Repeat("0", 64)
	good := Package{Name: "a", Version: "1", Arch: "amd64", SHA256: sum, Size: 1, URL: "http://m/a"}
	for want, change := range map[string]func(p *Package){
		"":                        func(p *Package) {},
		"bad name":                func(p *Package) { p.Name = "../a" },
		"is for arm64, not amd64": func(p *Package) { p.Arch = "arm64" },
		"no check sum":            func(p *Package) { p.SHA256 = "../../etc/passwd" },
		"not the URL":             func(p *Package) { p.URL = "/etc/passwd" },
	} {
		p := good
		change(&p)
		b, err := json.Marshal(Plan{Arch: "amd64", Packages: []Package{p}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParsePlan(b)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %q", p, err, want)
		}
	}
	if _, err := ParsePlan([]byte(`{"arch":"amd64","packages":[]}`)); err == nil {
		t.Error("an empty plan was taken")
	}
}
