// Package machineapi is what installed machines ask imgpipe and tell it: their
// metadata, which may change while they run; how their configuration ended; and
// the images that they are to run. docs/formats.md has the formats: Metadata
// over HTTP, Completion signal, and the OCI image layout behind a URL.
//
// A machine is its instance id and a token that is made for it and counts for
// nothing else: neither for another machine's metadata, nor once the machine is
// forgotten. What machines send is bounded, and refused when it is not about
// them.
package machineapi

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Signal is what a machine reports when it has configured itself: the body of
// an OpenStack Heat wait condition.
type Signal struct {
	Status   string // SUCCESS or FAILURE
	Reason   string
	UniqueID string `json:"UniqueId"`
	Data     string
}

// OK tells whether the machine reports success.
func (s Signal) OK() bool { return s.Status == "SUCCESS" }

// Limits.
const (
	maxSignal  = 64 << 10 // bytes of a signal's body
	maxPoll    = 50 * time.Second
	keptSignal = 100 // signals of a machine that nobody has taken yet
)

// Server answers machines. It is an http.Handler; the zero value is of no use.
type Server struct {
	// Refused is told of requests that are refused, and why, at most once a second:
	// who asks for the wrong thing may do so often. It is set before the first
	// request; nil tells nobody.
	Refused func(r *http.Request, why string)

	url string
	mux *http.ServeMux

	mu       sync.Mutex // guards the fields below
	machines map[string]*Machine
	told     time.Time // when Refused was told last
}

// refuse answers a request that is not as it should be.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, status int, why string) {
	http.Error(w, why, status)
	s.mu.Lock()
	now := time.Now()
	tell := s.Refused != nil && now.Sub(s.told) >= time.Second
	if tell {
		s.told = now
	}
	s.mu.Unlock()
	if tell {
		s.Refused(r, why)
	}
}

// New makes a server that machines reach at url, without a slash at the end,
// and that serves the OCI image layout in the directory images under /images;
// empty means that it has none.
func New(url, images string) *Server {
	s := &Server{url: url, mux: http.NewServeMux(), machines: map[string]*Machine{}}
	s.mux.HandleFunc("GET /v1/metadata/{instance}", s.metadata)
	s.mux.HandleFunc("POST /v1/signal/{instance}", s.signal)
	if images != "" {
		s.mux.Handle("GET /images/", http.StripPrefix("/images", layout{os.DirFS(images), http.FileServerFS(os.DirFS(images))}))
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Images is where machines find images, as the metadata's image.source has it.
func (s *Server) Images() string { return s.url + "/images" }

// Machine is one machine that is known. Its methods may be called from several
// goroutines.
type Machine struct {
	Instance string
	Token    string // a secret
	server   *Server

	mu       sync.Mutex // guards the fields below
	document []byte
	changed  chan struct{} // closed when the document changes
	gone     bool
	signals  chan Signal
}

// Add makes a machine known. What it is told is what extra has, and where and by
// which token it asks and reports. The instance must not be known already.
func (s *Server) Add(instance string, extra map[string]any) (*Machine, error) {
	var secret [32]byte
	_, _ = rand.Read(secret[:]) // it never fails: crypto/rand
	m := &Machine{Instance: instance, Token: base64.RawURLEncoding.EncodeToString(secret[:]), server: s,
		changed: make(chan struct{}), signals: make(chan Signal, keptSignal)}
	if err := m.Tell(extra); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.machines[instance] != nil {
		return nil, fmt.Errorf("instance %s: there is one already", instance)
	}
	s.machines[instance] = m
	return m, nil
}

// Tell changes what the machine is told; one that waits is answered at once.
func (m *Machine) Tell(extra map[string]any) error {
	b, err := json.Marshal(m.Metadata(extra))
	if err != nil {
		return fmt.Errorf("metadata of %s: %w", m.Instance, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(b) != string(m.document) {
		m.document = b
		close(m.changed)
		m.changed = make(chan struct{})
	}
	return nil
}

// Metadata is extra with what every machine is told.
func (m *Machine) Metadata(extra map[string]any) map[string]any {
	md := maps.Clone(extra)
	if md == nil {
		md = map[string]any{}
	}
	maps.Copy(md, map[string]any{
		"instance-id":       m.Instance,
		"completion-signal": m.server.url + "/v1/signal/" + m.Instance,
		"completion-token":  m.Token,
		"metadata-url":      m.server.url + "/v1/metadata/" + m.Instance,
		"metadata-token":    m.Token,
	})
	return md
}

// Own are the keys of Metadata that are made for each machine.
func Own() []string {
	return []string{"instance-id", "completion-signal", "completion-token", "metadata-url", "metadata-token"}
}

// Signal waits for the machine's next signal; each is returned once.
func (m *Machine) Signal(ctx context.Context) (Signal, error) {
	select {
	case s := <-m.signals:
		return s, nil
	case <-ctx.Done():
		return Signal{}, context.Cause(ctx)
	}
}

// Forget makes the machine's token worthless. It may be called twice.
func (m *Machine) Forget() {
	m.server.mu.Lock()
	if m.server.machines[m.Instance] == m {
		delete(m.server.machines, m.Instance)
	}
	m.server.mu.Unlock()
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.gone {
		m.gone = true
		close(m.changed)
	}
}

// of returns the machine that a request is from, or answers that it is none's.
// Whoever has no token is not told which machines there are.
func (s *Server) of(w http.ResponseWriter, r *http.Request) *Machine {
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	m := s.machines[r.PathValue("instance")]
	s.mu.Unlock()
	if !bearer || m == nil || subtle.ConstantTimeCompare([]byte(token), []byte(m.Token)) != 1 {
		s.refuse(w, r, http.StatusForbidden, "this token is not for this machine")
		return nil
	}
	return m
}

func (s *Server) signal(w http.ResponseWriter, r *http.Request) {
	m := s.of(w, r)
	if m == nil {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSignal))
	if err != nil {
		s.refuse(w, r, http.StatusRequestEntityTooLarge, "the signal is too large")
		return
	}
	var sig Signal
	switch err := json.Unmarshal(body, &sig); {
	case err != nil || sig.Status != "SUCCESS" && sig.Status != "FAILURE":
		s.refuse(w, r, http.StatusBadRequest, "expected a JSON object whose Status is SUCCESS or FAILURE")
		return
	case sig.UniqueID != m.Instance:
		s.refuse(w, r, http.StatusBadRequest, "UniqueId is not this machine's instance id")
		return
	}
	select {
	case m.signals <- sig:
		fmt.Fprintln(w, "ok")
	default:
		s.refuse(w, r, http.StatusTooManyRequests, "too many signals are waiting")
	}
}

// metadata answers with the machine's document, or when it changes.
func (s *Server) metadata(w http.ResponseWriter, r *http.Request) {
	m := s.of(w, r)
	if m == nil {
		return
	}
	wait := preferredWait(r)
	limit := time.NewTimer(min(wait, maxPoll))
	defer limit.Stop()
	for {
		m.mu.Lock()
		doc, changed, gone := m.document, m.changed, m.gone
		m.mu.Unlock()
		if gone {
			s.refuse(w, r, http.StatusForbidden, "this token is not for this machine")
			return
		}
		sum := sha256.Sum256(doc)
		tag := `"` + hex.EncodeToString(sum[:8]) + `"`
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") != tag {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(doc)
			return
		}
		if wait > 0 {
			w.Header().Set("Preference-Applied", fmt.Sprintf("wait=%d", int(min(wait, maxPoll)/time.Second)))
		}
		select {
		case <-changed:
		case <-limit.C:
			w.WriteHeader(http.StatusNotModified)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// preferredWait reads RFC 7240's wait, in seconds; 0 without one.
func preferredWait(r *http.Request) time.Duration {
	for _, p := range strings.Split(strings.Join(r.Header.Values("Prefer"), ","), ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if n, err := strconv.Atoi(value); strings.EqualFold(key, "wait") && err == nil && n > 0 && n < 1<<20 {
			return time.Duration(n) * time.Second
		}
	}
	return 0
}
