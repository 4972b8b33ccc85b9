package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"refreshcfg": main, "os-refresh-config": main, "dib-run-parts": main})
}

// receiver is the host that a machine reports to.
type receiver struct {
	mu   sync.Mutex // guards the field below
	seen []string
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, fmt.Sprintf("%s %s %s %s %s", req.Method, req.URL, req.Header.Get("Authorization"), req.Header.Get("Content-Type"), body))
	if req.URL.Path == "/refused" {
		w.WriteHeader(http.StatusForbidden)
	}
}

// take returns what was received since the last call.
func (r *receiver) take() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := strings.Join(r.seen, "\n")
	r.seen = nil
	return s
}

func TestScripts(t *testing.T) {
	got := &receiver{}
	server := httptest.NewServer(got)
	t.Cleanup(server.Close)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// substitute FILE puts the receiver's address into a file.
			"substitute": func(ts *testscript.TestScript, _ bool, args []string) {
				text := strings.ReplaceAll(ts.ReadFile(args[0]), "SERVER", server.URL)
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o644))
			},
			// requests makes what was received standard output.
			"requests": func(ts *testscript.TestScript, _ bool, _ []string) {
				_, err := io.WriteString(ts.Stdout(), got.take())
				ts.Check(err)
			},
		},
	})
}
