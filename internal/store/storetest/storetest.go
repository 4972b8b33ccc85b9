// Package storetest runs tests on both stores: a SQLite file, and a PostgreSQL
// server that it starts.
package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/store"
	"goldsmith/internal/testenv"
)

// Each runs a test on an empty database of each store.
func Each(t *testing.T, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	for _, kind := range []string{"sqlite", "postgresql"} {
		t.Run(kind, func(t *testing.T) { f(t, Open(t, Where(t, kind))) })
	}
}

// Open opens a database for the time of a test.
func Open(t testing.TB, where string) *store.DB {
	t.Helper()
	db, err := store.Open(context.Background(), where)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Where makes room for an empty database of a kind, "sqlite" or "postgresql",
// and returns what opens it.
func Where(t testing.TB, kind string) string {
	t.Helper()
	if kind == "sqlite" {
		return filepath.Join(t.TempDir(), "db")
	}
	return Shared(t).Database(t)
}

var shared struct {
	sync.Mutex
	server *Server
	n      int
}

// Shared returns the server that all tests of the program use. [Main] ends it.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.server = start(t)
	}
	return shared.server
}

// runner is a *testing.M.
type runner interface{ Run() int }

// Main runs a package's tests and ends the server afterwards. TestMain calls it.
func Main(m runner) int {
	defer func() {
		if shared.server != nil {
			shared.server.stop()
		}
	}()
	return m.Run()
}

// MainEach is Main with all of the package's tests run on each store in turn;
// kind says which, for [Where].
func MainEach(m *testing.M, kind *string) int {
	return Main(each{m, kind})
}

type each struct {
	m    *testing.M
	kind *string
}

// Run implements runner.
func (e each) Run() int {
	for _, *e.kind = range []string{"sqlite", "postgresql"} {
		if status := e.m.Run(); status != 0 {
			fmt.Fprintf(os.Stderr, "on %s\n", *e.kind)
			return status
		}
	}
	return 0
}

// Server is a PostgreSQL server without a network: a socket in its directory.
type Server struct {
	dir string
	bin string
	as  *syscall.SysProcAttr
	cmd *exec.Cmd
	log output
}

// output is what the server and its programs say, who may speak at once.
type output struct {
	mu   sync.Mutex // guards said
	said bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.said.Write(b)
}

func (o *output) Bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.said.Bytes())
}

// New starts a server that ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := start(t)
	t.Cleanup(s.stop)
	return s
}

func start(t testing.TB) *Server {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(bins) == 0 {
		testenv.Missing(t, "no PostgreSQL server is installed (package postgresql)")
	}
	slices.Sort(bins)
	s := &Server{bin: filepath.Dir(bins[len(bins)-1])}
	var err error
	// The name of a socket has to be short.
	if s.dir, err = os.MkdirTemp("/tmp", "pg"); err != nil {
		t.Fatal(err)
	}
	if s.as, err = unprivileged(s.dir); err == nil {
		err = s.run("initdb", "-D", s.data(), "-A", "trust", "-U", "imgpipe", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8").Run()
	}
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		t.Errorf("PostgreSQL: %v\n%s", err, s.log.Bytes())
		s.stop()
		t.FailNow()
	}
	return s
}

// unprivileged is another user for what root starts: the server refuses to be
// root.
func unprivileged(dir string) (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	return attr, os.Chown(dir, uid, uid)
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) run(program string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(s.bin, program), args...)
	c.Dir, c.SysProcAttr, c.Stdout, c.Stderr = s.dir, s.as, &s.log, &s.log
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	return c
}

// Start starts a server that was stopped, and waits until it answers.
func (s *Server) Start() error {
	s.cmd = s.run("postgres", "-D", s.data(), "-k", s.dir, "-c", "listen_addresses=", "-c", "max_connections=200", "-c", "shared_buffers=32MB")
	if err := s.cmd.Start(); err != nil {
		return err
	}
	for range 300 {
		err := s.exec("SELECT 1")
		if err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("it does not answer within 15 s")
}

// Stop ends the server at once, as a restart does: sessions are cut off.
func (s *Server) Stop() error {
	err := s.run("pg_ctl", "-D", s.data(), "-m", "immediate", "-w", "stop").Run()
	_ = s.cmd.Wait() // its status is that of a server that was ended
	s.cmd = nil
	return err
}

func (s *Server) stop() {
	if s.cmd != nil {
		_ = s.Stop()
	}
	_ = os.RemoveAll(s.dir)
}

// Database makes an empty database and returns its URL.
func (s *Server) Database(t testing.TB) string {
	t.Helper()
	shared.Lock()
	shared.n++
	name := fmt.Sprintf("test%d", shared.n)
	shared.Unlock()
	if err := s.exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	return s.url(name)
}

func (s *Server) url(name string) string {
	return "postgres:///" + name + "?" + url.Values{"host": {s.dir}, "user": {"imgpipe"}}.Encode()
}

func (s *Server) exec(q string) error {
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.Exec(q)
	return err
}
