package step

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"golang.org/x/crypto/ssh"

	"goldsmith/internal/machineapi"
	"goldsmith/internal/update"
	"goldsmith/pipeline"
	"goldsmith/testbed"
)

// fakePlace has one machine in memory: it answers over SSH, follows its
// metadata and reports, as the images of elements/ do. What goes wrong is said
// by hooks.
type fakePlace struct {
	t        *testing.T
	machine  *fakeMachine
	server   *http.Server
	sshAddr  string
	database *miniredis.Miniredis
}

// hooks are what goes wrong with a machine.
type hooks struct {
	// follow is what the machine does when it is to run another image; nil: it
	// runs it.
	follow func(m *fakeMachine, digest string)
	// answer answers a command line first; ok says that it has.
	answer func(m *fakeMachine, line string) (out string, ok bool)
	// start is called at each start; false: the machine does not come up.
	start func(m *fakeMachine) bool
}

type fakeMachine struct {
	*fakePlace
	hooks
	console string

	mu       sync.Mutex // guards the fields below
	on       bool
	metadata map[string]any
	status   update.Status
	boots    int
	files    map[string]string
	key      ssh.Signer
	conns    map[net.Conn]bool
}

func newFakePlace(t *testing.T) *fakePlace {
	p := &fakePlace{t: t, database: miniredis.RunT(t)}
	p.database.RequireAuth("secret")
	p.machine = &fakeMachine{fakePlace: p, files: map[string]string{}, conns: map[net.Conn]bool{}, key: hostKey(t)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.sshAddr = l.Addr().String()
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepting.Go(func() { p.machine.serveSSH(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		p.machine.drop()
		accepting.Wait()
	})
	return p
}

func hostKey(t *testing.T) ssh.Signer {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p *fakePlace) check(context.Context) error                        { return nil }
func (p *fakePlace) open(context.Context, *pipeline.Job) (bench, error) { return p, nil }
func (p *fakePlace) network() testbed.Network                           { return fakeNetwork{place: p} }
func (p *fakePlace) close() error                                       { return p.server.Close() }
func (p *fakePlace) serve(context.Context) (*machineapi.Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	api := machineapi.New("http://"+l.Addr().String(), "")
	p.server = &http.Server{Handler: api}
	go p.server.Serve(l) //nolint:errcheck // it ends by close
	return api, nil
}

func (p *fakePlace) install(_ context.Context, o order) (machine, error) {
	p.machine.console = filepath.Join(p.t.TempDir(), "console")
	p.machine.mu.Lock() // what listens for the image before may still do so
	p.machine.metadata = o.Seed.Metadata.(map[string]any)
	p.machine.status = update.Status{Boot: update.Boot{Slot: "a", RootHash: "r"},
		Record: &update.Record{Slots: map[string]*update.Slot{"a": {Digest: o.Image.Digest}}}}
	p.machine.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	var listening sync.WaitGroup
	listening.Go(func() { p.machine.listen(ctx, o.Image.Digest) })
	p.t.Cleanup(func() { cancel(); listening.Wait() })
	return p.machine, nil
}

// fakeNetwork leads to the machine, whatever its address is.
type fakeNetwork struct {
	testbed.Host
	place *fakePlace
}

func (n fakeNetwork) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to := n.place.sshAddr
	if strings.HasSuffix(addr, ":6379") {
		to = n.place.database.Addr()
	}
	return n.Host.Dial(ctx, network, to)
}

func (m *fakeMachine) Name() string              { return "fake" }
func (m *fakeMachine) Console() *testbed.Console { return &testbed.Console{Path: m.console} }
func (m *fakeMachine) Address(context.Context) (netip.Addr, error) {
	return netip.MustParseAddr("127.0.0.1"), nil
}
func (m *fakeMachine) Release(ctx context.Context) error                { return m.PowerOff(ctx) }
func (m *fakeMachine) Power(context.Context) (p testbed.Power, _ error) { return testbed.On, nil }

func (m *fakeMachine) PowerOn(context.Context) error {
	m.mu.Lock()
	was := m.on
	m.on = true
	m.boots++
	m.mu.Unlock()
	if !was && (m.start == nil || m.start(m)) {
		m.report("SUCCESS", "Configuration complete")
	}
	return nil
}

func (m *fakeMachine) PowerOff(context.Context) error {
	m.mu.Lock()
	m.on = false
	m.mu.Unlock()
	m.drop()
	return nil
}

// drop ends all connections, as a restart does.
func (m *fakeMachine) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.conns {
		_ = c.Close()
	}
}

// reboot is a restart that the machine itself begins.
func (m *fakeMachine) reboot() {
	_ = m.PowerOff(context.Background())
	_ = m.PowerOn(context.Background())
}

// told is a word of the machine's metadata.
func (m *fakeMachine) told(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.metadata[key].(string)
}

func (m *fakeMachine) report(status, reason string) {
	body, _ := json.Marshal(map[string]string{"Status": status, "Reason": reason, "UniqueId": m.told("instance-id")})
	req, err := http.NewRequest("POST", m.told("completion-signal"), bytes.NewReader(body))
	if err != nil {
		m.t.Error(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+m.told("completion-token"))
	if resp, err := http.DefaultClient.Do(req); err == nil { // the stage may be over
		_ = resp.Body.Close()
	}
}

// wanted reads which image the metadata want now.
func (m *fakeMachine) wanted() string {
	req, err := http.NewRequest("GET", m.told("metadata-url"), nil)
	if err != nil {
		return ""
	}
	req.Header.Set("Authorization", "Bearer "+m.told("metadata-token"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	var doc struct{ Image struct{ Digest string } }
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		return ""
	}
	return doc.Image.Digest
}

// serveSSH lets anybody in and runs what is asked.
func (m *fakeMachine) serveSSH(c net.Conn) {
	defer c.Close()
	m.mu.Lock()
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(m.key)
	on := m.on
	m.conns[c] = true
	m.mu.Unlock()
	if !on {
		return
	}
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for n := range channels {
		ch, requests, err := n.Accept()
		if err != nil {
			return
		}
		for r := range requests {
			_ = r.Reply(r.Type == "exec", nil)
			if r.Type != "exec" {
				continue
			}
			var line struct{ Text string }
			_ = ssh.Unmarshal(r.Payload, &line)
			_, _ = io.WriteString(ch, m.run(line.Text))
			if strings.HasPrefix(line.Text, "set -e\nmkdir") { // a writer goes on until the power goes
				_ = conn.Wait()
				return
			}
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
			_ = ch.Close()
		}
	}
}

// run acts out a command line.
func (m *fakeMachine) run(line string) string {
	if m.answer != nil {
		if out, ok := m.answer(m, line); ok {
			return out
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case strings.HasPrefix(line, "imgupdate status"):
		b, _ := json.Marshal(m.status)
		return string(b)
	case strings.Contains(line, "boot_id"):
		return fmt.Sprintln("boot", m.boots)
	case strings.HasPrefix(line, "set -e; mkdir"):
		m.files[dataFile] = "precious\n"
	case strings.HasPrefix(line, "cat "+dataFile):
		return m.files[dataFile]
	case strings.HasPrefix(line, "if test -e "+dataFile) && m.files[dataFile] != "":
		return "there\n"
	case strings.HasPrefix(line, "set -e\nmkdir"):
		var next int
		_, _ = fmt.Sscanf(line[strings.Index(line, "i="):], "i=%d", &next)
		said := fmt.Sprintf("%d\n%d\n", next, next+1)
		m.files["writes"] += said
		return said
	case strings.HasPrefix(line, "cat "+dataDir+"/writes"):
		return m.files["writes"]
	case strings.HasPrefix(line, "systemctl is-system-running"):
		return "running\n"
	case strings.HasPrefix(line, "du "):
		return "1000\n"
	case line == "systemctl reboot":
		go m.reboot()
	case strings.HasPrefix(line, "imgupdate reset"):
		m.files = map[string]string{}
		m.key = hostKey(m.t)
		go m.reboot()
	}
	return ""
}
