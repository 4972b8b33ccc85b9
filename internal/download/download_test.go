package download

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var stamp = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)

// server answers with what the path says.
func server(t *testing.T) (*httptest.Server, *[]*http.Request) {
	t.Helper()
	var seen []*http.Request
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r)
		switch r.URL.Path {
		case "/file":
			http.ServeContent(w, r, "", stamp, strings.NewReader("content"))
		case "/moved":
			http.Redirect(w, r, "/file", http.StatusFound)
		case "/empty":
		case "/short":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "only a part")
		case "/flaky":
			if len(seen) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			fmt.Fprint(w, "at last")
		case "/forbidden":
			w.WriteHeader(http.StatusForbidden)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s, &seen
}

func get(t *testing.T, g Getter, url, dest string) (Outcome, error) {
	t.Helper()
	g.Delay = time.Millisecond
	return g.Get(t.Context(), url, dest)
}

func content(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(b)
}

func TestGet(t *testing.T) {
	for _, c := range []struct {
		name, path, before string // before is in the file; "" means that there is none
		age                time.Duration
		force              bool
		want               Outcome
		after, err         string
		requests           int
	}{
		{"first", "/file", "", 0, false, First, "content", "", 1},
		{"newer", "/file", "old", time.Hour, false, Changed, "content", "", 1},
		{"as new", "/file", "old", 0, false, Unchanged, "old", "", 1},
		{"forced", "/file", "old", 0, true, Forced, "content", "", 1},
		{"redirected", "/moved", "", 0, false, First, "content", "", 2},
		{"nothing sent, but there is a file", "/empty", "old", 0, false, Empty, "old", "", 1},
		{"nothing sent", "/empty", "", 0, false, First, "", "", 1},
		{"broken off", "/short", "old", 0, false, 0, "old", "unexpected EOF", 4},
		{"better later", "/flaky", "", 0, false, First, "at last", "", 3},
		{"not there", "/none", "old", 0, false, 0, "old", "not found", 1},
		{"forbidden", "/forbidden", "", 0, false, 0, "", "status 403", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, seen := server(t)
			dest := filepath.Join(t.TempDir(), "dir", "file")
			if c.before != "" {
				if err := errors.Join(os.Mkdir(filepath.Dir(dest), 0o755), os.WriteFile(dest, []byte(c.before), 0o644),
					os.Chtimes(dest, stamp.Add(-c.age), stamp.Add(-c.age))); err != nil {
					t.Fatal(err)
				}
			}
			got, err := get(t, Getter{Force: c.force}, s.URL+c.path, dest)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %v, %v; want %v, %q", got, err, c.want, c.err)
			}
			if after := content(t, dest); after != c.after {
				t.Errorf("the file holds %q; want %q", after, c.after)
			}
			if len(*seen) != c.requests {
				t.Errorf("%d requests; want %d", len(*seen), c.requests)
			}
			if entries, _ := os.ReadDir(filepath.Dir(dest)); len(entries) > 1 {
				t.Errorf("left behind: %v", entries)
			}
			if c.force && (*seen)[0].Header.Get("Cache-Control") == "" {
				t.Error("caches on the way were not asked for a new copy")
			}
		})
	}
}

// What is not what it should be is asked for again, and never seen.
func TestGetChecked(t *testing.T) {
	s, seen := server(t)
	dest := filepath.Join(t.TempDir(), "f")
	const sum = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73" // of "content"
	for _, tt := range []struct {
		g    Getter
		want string
	}{
		{Getter{Limit: 6}, "more than 6 bytes"},
		{Getter{SHA256: strings.Repeat("0", 64)}, "the content has SHA-256 " + sum + ", not 0000"},
		{Getter{Limit: 7, SHA256: sum}, ""},
	} {
		*seen = nil
		tt.g.Tries, tt.g.Backoff = 2, true
		_, err := get(t, tt.g, s.URL+"/file", dest)
		if tt.want == "" {
			if err != nil || content(t, dest) != "content" {
				t.Errorf("%+v: %v, %q", tt.g, err, content(t, dest))
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(*seen) != 2 {
			t.Errorf("%+v: %v after %d tries; want %s", tt.g, err, len(*seen), tt.want)
		}
		if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestGetFile(t *testing.T) {
	dir := t.TempDir()
	src, dest := dir+"/a file", dir+"/dest"
	if err := os.WriteFile(src, []byte("local"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i, want := range []Outcome{First, Unchanged} {
		if got, err := get(t, Getter{}, "file://"+strings.ReplaceAll(src, " ", "%20"), dest); got != want || err != nil {
			t.Errorf("time %d: %v, %v; want %v", i, got, err, want)
		}
	}
	if content(t, dest) != "local" {
		t.Errorf("%q", content(t, dest))
	}
	for url, want := range map[string]string{
		"file://" + dir:         "is a directory",
		"file://" + dir + "/no": "not found",
		"ftp://h/f":             `scheme "ftp"`,
		"://":                   "not a URL",
	} {
		if _, err := get(t, Getter{}, url, dest); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", url, err, want)
		}
	}
	if _, err := get(t, Getter{}, "file://"+src, dir); err == nil {
		t.Error("wrote over a directory")
	}
}

func TestGetToPipe(t *testing.T) {
	s, _ := server(t)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		f, err := os.Open(pipe)
		if err != nil {
			read <- err.Error()
			return
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		read <- string(b)
	}()
	if got, err := get(t, Getter{}, s.URL+"/file", pipe); got != First || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if got := <-read; got != "content" {
		t.Errorf("read %q", got)
	}
}

// A password in a URL is nobody's business.
func TestErrorsKeepSecrets(t *testing.T) {
	s, _ := server(t)
	url := strings.Replace(s.URL, "http://", "http://user:secret@", 1)
	for _, u := range []string{url + "/none", "http://user:secret@127.0.0.1:1/x"} {
		var told []string
		_, err := get(t, Getter{Tries: 2, Retrying: func(e error) { told = append(told, e.Error()) }}, u, filepath.Join(t.TempDir(), "f"))
		if err == nil || strings.Contains(err.Error()+strings.Join(told, ""), "secret") {
			t.Errorf("%v, %v", err, told)
		}
	}
}
