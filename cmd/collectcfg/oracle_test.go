package main

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

// theOriginal is one process that runs Debian's os-collect-config.
type theOriginal struct {
	in  io.WriteCloser
	out *bufio.Reader
}

func startOriginal(t *testing.T) *theOriginal {
	t.Helper()
	testenv.NeedFile(t, "/usr/lib/python3/dist-packages/os_collect_config/collect.py")
	cmd := exec.Command("/usr/bin/python3", "testdata/original.py")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	return &theOriginal{in, bufio.NewReader(out)}
}

func (o *theOriginal) run(t *testing.T, dir string, env, args []string) (status int) {
	t.Helper()
	b, err := json.Marshal(struct {
		Dir       string
		Env, Args []string
	}{dir, env, args})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.in.Write(append(b, '\n')); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanln(o.out, &status); err != nil {
		t.Fatal(err)
	}
	return status
}

func runOurs(t *testing.T, dir string, env, args []string) (status int) {
	t.Helper()
	cmd := exec.Command("os-collect-config", args...)
	var files []*os.File
	for _, name := range []string{"stdout", "stderr"} {
		f, err := os.OpenFile(dir+"."+name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, files[0], files[1]
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// scene is a directory and what is done in it, step by step: a step is a
// command line, or a file to be written ("> name content").
type scene struct {
	name  string
	files map[string]string
	steps []string
	why   string // what differs on purpose; empty: nothing
}

// outcome is what a scene came to.
type outcome struct {
	Status   []int
	Stdout   string
	Files    map[string]string // name → mode and content
	Requests []string
}

// server answers as the services do, below a path for each scene, and notes
// the requests.
type server struct {
	*httptest.Server
	mu   sync.Mutex // guards the field below
	seen []string
}

func (s *server) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

const cfnSecret = "s3cret/+"

// signed says that a request has the signature that version 2 of AWS's
// signatures asks for.
func signed(r *http.Request) bool {
	q := r.URL.Query()
	got := q.Get("Signature")
	q.Del("Signature")
	canonical := strings.ReplaceAll(q.Encode(), "+", "%20")
	mac := hmac.New(sha256.New, []byte(cfnSecret))
	fmt.Fprintf(mac, "GET\n%s\n%s\n%s", r.Host, r.URL.Path, canonical)
	return got == base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func startServer(t *testing.T) *server {
	s := &server{}
	mux := http.NewServeMux()
	text := func(path, kind, body string) {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			_, _ = io.WriteString(w, body)
		})
	}
	text("/meta", "application/json", `{"b": 1, "a": "é", "deployments": [{"name": "d1", "config": {"x": 1}}, {"name": "d2", "group": "script", "config": {}}]}`)
	text("/latin", "text/plain", "{\"k\": \"\xe9\"}")
	text("/utf8", "text/plain; charset=utf-8", `{"k": "é"}`)
	text("/list", "application/json", `[1]`)
	text("/half", "application/json", `{"deployments": [{"name": "x"}]}`)
	text("/escape", "application/json", `{"deployments": [{"name": "../out", "config": {}}]}`)
	text("/broken", "application/json", `{`)
	text("/keys", "application/json", `{"other": [{"name": "o", "config": 1}], "deployments": "none", "more": [{"config": 1}, {"name": "p", "group": "os-apply-config", "config": []}]}`)
	mux.HandleFunc("/versions", func(w http.ResponseWriter, r *http.Request) {
		// The requests so far, this one too, are HEAD and GET by turns.
		s.mu.Lock()
		n := (len(s.seen) + 1) / 2
		s.mu.Unlock()
		fmt.Fprintf(w, `{"version": %d}`, min(n, 5))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/meta", http.StatusFound) })
	for path, body := range map[string]string{
		"{$}": "ami-id\nblock/\npublic-keys/", "ami-id": "ami-1", "block/{$}": "root", "block/root": "sda", "public-keys/{$}": "0=mine\n1=yours",
		"public-keys/0/{$}": "openssh-key", "public-keys/0/openssh-key": "ssh-rsa A\n", "public-keys/1/{$}": "openssh-key", "public-keys/1/openssh-key": "ssh-rsa B",
	} {
		text("/ec2/"+path, "text/plain", body)
	}
	field := func(metadata string) string {
		return "<DescribeStackResourceResponse><DescribeStackResourceResult><StackResourceDetail><ResourceStatus>CREATE_COMPLETE</ResourceStatus>" +
			"<Metadata>" + metadata + "</Metadata></StackResourceDetail></DescribeStackResourceResult></DescribeStackResourceResponse>"
	}
	for name, body := range map[string]string{
		"server": field(`{"role": "web", "sub": {"deep": {"n": 1.0}}, "deployments": [{"name": "c1", "config": {"y": [1, 2]}}]}`),
		"other":  field(`{"role": "db", "more": true}`), "broken": field(`{"a": `),
	} {
		mux.HandleFunc("/v1/"+name+"/", func(w http.ResponseWriter, r *http.Request) {
			if !signed(r) {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			w.Header().Set("Content-Type", "text/xml")
			if r.FormValue("LogicalResourceId") == "other" {
				body = field(`{"role": "db", "more": true}`)
			}
			_, _ = io.WriteString(w, body)
		})
	}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.seen = append(s.seen, fmt.Sprintf("%s %s %q", r.Method, r.RequestURI, r.Header.Get("Content-Type")))
		s.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// play runs a scene with one of the programs.
func (s *server) play(t *testing.T, sc scene, run func(t *testing.T, dir string, env, args []string) int) outcome {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "scene")
	put := func(name, content string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(content, "URL", s.URL)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put(".here", "")
	for name, content := range sc.files {
		put(name, content)
	}
	var o outcome
	for _, step := range sc.steps {
		if rest, ok := strings.CutPrefix(step, "> "); ok {
			name, content, _ := strings.Cut(rest, " ")
			put(name, content)
			continue
		}
		env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
		args := split(strings.ReplaceAll(step, "URL", s.URL))
		for len(args) > 0 && strings.HasPrefix(args[0], "OS_") {
			env, args = append(env, args[0]), args[1:]
		}
		o.Status = append(o.Status, run(t, dir, env, args))
	}
	out, err := os.ReadFile(dir + ".stdout")
	if err != nil {
		t.Fatal(err)
	}
	o.Stdout, o.Files, o.Requests = strings.ReplaceAll(string(out), dir, "DIR"), tree(t, dir), s.take()
	return o
}

// split takes a command line apart at blanks; quotes keep a word together.
func split(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words = append(words, part)
		} else {
			words = append(words, strings.Fields(part)...)
		}
	}
	return words
}

func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := e.Info()
		if err != nil {
			return err
		}
		content := ""
		if !e.IsDir() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = " " + strings.ReplaceAll(string(b), dir, "DIR")
		}
		files[strings.TrimPrefix(path, dir)] = fi.Mode().String() + content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestOriginal plays scenes with the original and with ours, and compares what
// is printed, the statuses, the files and the requests.
func TestOriginal(t *testing.T) {
	o, s := startOriginal(t), startServer(t)
	equal, different := 0, map[string]int{}
	for _, sc := range scenes() {
		theirs, ours := s.play(t, sc, o.run), s.play(t, sc, runOurs)
		d := cmp.Diff(theirs, ours)
		switch {
		case d != "" && sc.why == "":
			t.Errorf("%s (-original +ours):\n%s", sc.name, d)
		case d == "" && sc.why != "":
			t.Errorf("%s: does not differ, but should: %s", sc.name, sc.why)
		case d == "":
			equal++
		default:
			different[sc.why]++
		}
	}
	for name, script := range loops {
		theirs, ours := s.loop(t, "/usr/bin/os-collect-config", script), s.loop(t, "os-collect-config", script)
		if d := cmp.Diff(theirs, ours); d != "" {
			t.Errorf("loop, %s (-original +ours):\n%s", name, d)
			continue
		}
		equal++
	}
	row := testenv.Row{Matter: "os-collect-config: output, statuses, files and requests, cases by hand", Equal: equal}
	for _, why := range slices.Sorted(maps.Keys(different)) {
		row.Different = append(row.Different, testenv.Difference{Cases: different[why], Why: why})
	}
	testenv.Proof(t, row)
}

// loops are commands that are run, again and again, by the programs as they
// run on a machine; the server's object changes until its fifth version.
var loops = map[string]string{
	"changes":          "tr -d '\\n ' <$1 >>log",
	"a failure":        "tr -d '\\n ' <$1 >>log; grep -q 3 $1 && [ $(wc -c <log) -lt 60 ] && exit 5; exit 0",
	"another setting":  "tr -d '\\n ' <$1 >>log; echo $2 >>log; sed -i 's/once$/twice/' c.conf",
	"setting, failing": "tr -d '\\n ' <$1 >>log; echo $2 >>log; sed -i 's/once$/twice/' c.conf; [ $(wc -c <log) -gt 60 ]",
}

// loop lets a program poll until the server has been asked often enough that
// nothing changes any more.
func (s *server) loop(t *testing.T, program, script string) outcome {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"run": script + "\n",
		"c.conf": "[DEFAULT]\ncachedir = cache\nbackup_cachedir = backup\ncollectors = request\nmin_polling_interval = 0.02\n" +
			"polling_interval = 0.1\ncommand = sh run $$OS_CONFIG_FILES once\n[request]\nmetadata_url = " + s.URL + "/versions\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.take()
	cmd := exec.Command(program, "--config-file", "c.conf")
	cmd.Dir, cmd.Env = dir, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	asked := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.seen)
	}
	for range 3000 {
		if asked() >= 2*12 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	o := outcome{Files: tree(t, dir), Requests: s.take()}
	if len(o.Requests) < 2*12 {
		t.Fatalf("%s asked %d times only", program, len(o.Requests))
	}
	o.Requests = o.Requests[:2*12]
	for name := range o.Files { // what the signal interrupted
		if strings.HasPrefix(name, "/cache/tmp") || strings.HasPrefix(name, "/backup/tmp") {
			delete(o.Files, name)
		}
	}
	return o
}
