// Package api is what imgpipe serves over HTTP: runs, logs and decisions for
// people and programs, tasks for workers, images for registries' clients, and
// its own health and figures. openapi.go describes all of it.
//
// Every request but those about health names its maker by a token, whose role
// must suffice; bodies are bounded; what changes something, and what was
// refused, is written down.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/internal/store"
	"goldsmith/pipeline/engine"
)

// Config is what a server serves.
type Config struct {
	Engine *engine.Engine
	DB     *store.DB
	Dir    string // where runs keep their files
	// Sources are directories below which pipeline files may be named; empty: no
	// run can be made over HTTP.
	Sources []string
	// Submit makes a run of a file.
	Submit func(ctx context.Context, file string, inputs map[string]string, author, actor string) (int64, error)
	// Book is what moves channels, Policies reads their policies; nil: there are no
	// channels.
	Book     *promotion.Book
	Policies func() ([]*promotion.Policy, error)
	Images   http.Handler // the registry, below /v2/; nil: none
	Version  string
	Log      *slog.Logger // nil: nothing is said
}

// Limits.
const (
	maxBody    = 1 << 20          // bytes of a request's body
	maxFile    = engine.MaxFiles  // bytes of a worker's file
	handleTime = 2 * time.Minute  // for a request that is no file
	headTime   = 5 * time.Second  // until a stranger's body has come, which nobody reads
	bodyTime   = 90 * time.Second // until a body has come: longer than maxWait, as waiting reads on
	fileTime   = 30 * time.Minute // the same of a file
	maxWait    = 50 * time.Second // of a request that waits
	noteEvery  = time.Second      // strangers' requests are written down at most so often
)

// Server answers requests. It is an http.Handler.
type Server struct {
	Config
	access  *Access
	mux     *http.ServeMux
	figures *figures

	mu       sync.Mutex              // guards the fields below
	stranger time.Time               // when one was written down last
	putting  map[int64]chan struct{} // attempts of which a file is being kept; closed when it is
}

// New returns a server.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{Config: c, access: NewAccess(c.DB), mux: http.NewServeMux(), putting: map[int64]chan struct{}{}}
	s.figures = newFigures(s)
	for _, r := range append(s.routes(), s.imageRoutes()...) {
		s.mux.Handle(r.pattern(), s.guard(r))
	}
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// route is one thing that can be asked for.
type route struct {
	method, path string
	role         Role // that suffices; empty: nobody is asked for
	also         Role // another that suffices
	summary      string
	query        map[string]string // parameters, and what they mean
	in, out      any               // examples of the bodies' types; nil: there is none, or it is no JSON
	serve        http.HandlerFunc
	raw          bool // the body is no JSON
	images       bool // of the registry
}

func (r route) pattern() string { return strings.TrimSpace(r.method + " " + r.path) }

// changes tells whether a request may change something worth an entry.
func (r route) changes() bool {
	return r.method != http.MethodGet && r.method != "" && r.role != Work
}

type identity struct {
	name string
	role Role
}

type identityKey struct{}

// actor is who makes a request.
func actor(r *http.Request) string {
	id, _ := r.Context().Value(identityKey{}).(identity)
	return id.name
}

// guard lets a request through whose maker may ask for that.
func (s *Server) guard(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		// A body must come in time, whoever sends it: also where it is not read.
		within := func(d time.Duration) {
			_ = http.NewResponseController(w).SetReadDeadline(begun.Add(d)) // a server that cannot is a test's
		}
		within(headTime)
		var id identity
		if rt.role != "" {
			var err error
			id.name, id.role, err = s.access.who(r.Context(), credentials(rt, r))
			switch {
			case errors.Is(err, errNobody):
				s.deny(rec, rt, http.StatusUnauthorized, err)
			case err != nil:
				s.fail(rec, err)
			default:
				if err := rt.allowed(id.role); err != nil {
					s.deny(rec, rt, http.StatusForbidden, err)
				}
			}
		}
		if rec.status == http.StatusOK {
			limit := int64(maxBody)
			switch {
			case rt.images:
				limit = maxBlob
			case rt.raw:
				limit = maxFile
			}
			within(bodyTime)
			if limit > maxBody {
				within(fileTime)
			}
			r.Body = http.MaxBytesReader(rec, r.Body, limit)
			ctx := context.WithValue(r.Context(), identityKey{}, id)
			if !rt.raw {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, handleTime)
				defer cancel()
			}
			rt.serve(rec, r.WithContext(ctx))
		}
		s.done(rt, rec, r, id, begun)
	})
}

// done writes down what came of a request.
func (s *Server) done(rt route, rec *recorder, r *http.Request, id identity, begun time.Time) {
	took := time.Since(begun)
	s.figures.request(rt, rec.status, took)
	peer, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		peer = r.RemoteAddr
	}
	level := slog.LevelInfo
	if r.Method == http.MethodGet && rec.status < http.StatusBadRequest {
		level = slog.LevelDebug // whoever watches a run asks each second
	}
	s.Log.Log(r.Context(), level, "request", "method", r.Method, "path", r.URL.Path, "status", rec.status, "who", id.name, "peer", peer, "ms", took.Milliseconds())
	if !rt.worthNote(r, rec.status) || id.name == "" && !s.roomForStranger() {
		return
	}
	err = s.access.note(context.WithoutCancel(r.Context()), Request{Who: id.name, Role: id.role, Peer: peer, Request: r.Method + " " + r.URL.Path,
		Status: rec.status, Detail: rec.said})
	if err != nil {
		s.Log.Error("a request was not written down", "error", err)
	}
}

// roomForStranger bounds what somebody without a token can make us write.
func (s *Server) roomForStranger() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.stranger) < noteEvery {
		return false
	}
	s.stranger = time.Now()
	return true
}

// recorder remembers how a request was answered.
type recorder struct {
	http.ResponseWriter
	status int
	said   string // of a refusal
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// Problem is the body of an answer that is no success.
type Problem struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	// Exit is the exit status that the command of the same name has (docs/formats.md).
	Exit int `json:"exit,omitempty"`
}

func refuse(w http.ResponseWriter, status int, err error) {
	if rec, ok := w.(*recorder); ok {
		rec.said = err.Error()
	}
	answer(w, status, Problem{Error: command.Plain(err.Error()), Hint: command.Plain(command.HintOf(err)), Exit: command.Status(err)})
}

// fail answers with what an error is for the one who asked.
func (s *Server) fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case isTooLarge:
		status, err = http.StatusRequestEntityTooLarge, tooLarge
	case errors.Is(err, engine.ErrNoRun):
		status = http.StatusNotFound
	case errors.Is(err, engine.ErrLost):
		status = http.StatusGone
	case command.Status(err) == command.StatusUsage:
		status = http.StatusBadRequest
	case command.Status(err) == command.StatusBusy:
		status = http.StatusConflict
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		status = http.StatusServiceUnavailable
	}
	if status == http.StatusInternalServerError {
		// What is wrong inside is for the log, and not for whoever asks.
		s.Log.Error("a request failed", "error", err)
		if rec, ok := w.(*recorder); ok {
			rec.said = err.Error()
		}
		answer(w, status, Problem{Error: "imgpipe has a problem; its log says which"})
		return
	}
	refuse(w, status, err)
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // whoever asked is gone
}

// reply answers with v, or with what err is.
func (s *Server) reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		s.fail(w, err)
		return
	}
	answer(w, http.StatusOK, v)
}

// read reads a request's body, which has nothing that we do not know.
func read(r *http.Request, v any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return err
		}
		return command.Usage("the body: "+err.Error(), "/openapi.json says what it must be")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return command.Usage("the body: something comes after the JSON object", "")
	}
	return nil
}

// metrics serves the figures for Prometheus.
func (s *Server) metrics(w http.ResponseWriter, r *http.Request) {
	promhttp.HandlerFor(s.figures.registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
}
