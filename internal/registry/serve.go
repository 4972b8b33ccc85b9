package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"goldsmith/internal/command"
)

// Config is how a layout is served. Its zero value serves it to be read and
// written.
type Config struct {
	// Protected tells whether a tag is moved in another way: a push of it is
	// refused. nil: none is.
	Protected func(r *http.Request, tag string) (bool, error)
	MaxBlob   int64        // bytes of a blob that is pushed; 0: 64 GiB
	Log       *slog.Logger // nil: nothing is said
}

const usualMaxBlob = 64 << 30

// Handler serves the layout as an OCI registry
// (https://github.com/opencontainers/distribution-spec, version 1.1), below
// /v2/. All repositories are the one layout, whatever their name. Nothing is
// removed but unfinished uploads. Who may ask is not asked here.
func (l *Layout) Handler(c Config) http.Handler {
	if c.MaxBlob == 0 {
		c.MaxBlob = usualMaxBlob
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &served{l, c}
}

type served struct {
	layout *Layout
	Config
}

// call is one request, its path taken apart.
type call struct {
	w          http.ResponseWriter
	r          *http.Request
	repository string
	arg        string // tag, digest or upload
}

// problem is what a client is told, with the codes of the specification.
type problem struct {
	status  int
	code    string
	message string
}

func (p *problem) Error() string { return p.message }

func bad(status int, code, format string, args ...any) error {
	return &problem{status, code, fmt.Sprintf(format, args...)}
}

// Refuse answers a request with the body that registries' clients read. The
// codes are those of the specification.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// Whoever asked may be gone.
	_ = json.NewEncoder(w).Encode(map[string][]entry{"errors": {{code, command.Plain(message)}}})
}

var nameRE = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)

const maxName = 255

// endpoint is one shape of a path: what lies between /v2/ and the end is
// NAME, infix and an argument.
type endpoint struct {
	infix   string
	has     bool // an argument
	methods map[string]func(*served, *call) error
}

var endpoints = []endpoint{
	{"/blobs/uploads/", false, map[string]func(*served, *call) error{http.MethodPost: (*served).begin}},
	{"/blobs/uploads/", true, map[string]func(*served, *call) error{
		http.MethodGet: (*served).progress, http.MethodPatch: (*served).patch, http.MethodPut: (*served).finish, http.MethodDelete: (*served).abandon}},
	{"/blobs/", true, map[string]func(*served, *call) error{http.MethodGet: (*served).blob, http.MethodHead: (*served).blob}},
	{"/manifests/", true, map[string]func(*served, *call) error{
		http.MethodGet: (*served).manifest, http.MethodHead: (*served).manifest, http.MethodPut: (*served).putManifest}},
	{"/referrers/", true, map[string]func(*served, *call) error{http.MethodGet: (*served).referrers}},
	{"/tags/list", false, map[string]func(*served, *call) error{http.MethodGet: (*served).tags}},
}

// ServeHTTP implements http.Handler.
func (s *served) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	err := s.serve(w, r)
	if err == nil {
		return
	}
	p, known := errors.AsType[*problem](err)
	tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case known:
	case isTooLarge:
		p = &problem{http.StatusRequestEntityTooLarge, "SIZE_INVALID", tooLarge.Error()}
	case command.Status(err) == command.StatusBusy:
		p = &problem{http.StatusServiceUnavailable, "UNKNOWN", "the layout is locked; try again"}
	default:
		// What is wrong inside is for the log, and not for whoever asks.
		s.Log.Error("a registry's request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		p = &problem{http.StatusInternalServerError, "UNKNOWN", "imgpipe has a problem; its log says which"}
	}
	Refuse(w, p.status, p.code, p.message)
}

// serve answers a request, or returns what is wrong before anything was sent.
func (s *served) serve(w http.ResponseWriter, r *http.Request) error {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if ok && path == "" {
		return s.version(w, r)
	}
	for _, e := range endpoints {
		i := strings.LastIndex(path, e.infix)
		if !ok || i < 0 {
			continue
		}
		repository, arg := path[:i], path[i+len(e.infix):]
		if e.has == (arg == "") || strings.Contains(arg, "/") {
			continue
		}
		if len(repository) > maxName || !nameRE.MatchString(repository) {
			return bad(http.StatusBadRequest, "NAME_INVALID", "not the name of a repository")
		}
		handle := e.methods[r.Method]
		if handle == nil {
			return bad(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not supported here", r.Method)
		}
		return handle(s, &call{w, r, repository, arg})
	}
	return bad(http.StatusNotFound, "NAME_UNKNOWN", "there is nothing of that path")
}

func (s *served) version(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return bad(http.StatusMethodNotAllowed, "UNSUPPORTED", "%s is not supported here", r.Method)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte("{}")) // whoever asked is gone
	return nil
}

// digest reads a digest; ours are all SHA-256.
func digest(text string) (v1.Hash, error) {
	h, err := v1.NewHash(text)
	if err != nil || h.Algorithm != "sha256" {
		return v1.Hash{}, bad(http.StatusBadRequest, "DIGEST_INVALID", "not a SHA-256 digest")
	}
	return h, nil
}

// taken are the types of manifests that are served and taken.
var taken = []types.MediaType{types.OCIManifestSchema1, types.OCIImageIndex}

// named returns how the index lists a manifest that is named by tag or digest.
func (s *served) named(name string) (v1.Descriptor, error) {
	unknown := bad(http.StatusNotFound, "MANIFEST_UNKNOWN", "there is no such manifest")
	match := func(d v1.Descriptor) bool { return d.Annotations[annotationRef] == name }
	if strings.Contains(name, ":") {
		h, err := digest(name)
		if err != nil {
			return v1.Descriptor{}, err
		}
		match = func(d v1.Descriptor) bool { return d.Digest == h }
	} else if !tagRE.MatchString(name) {
		return v1.Descriptor{}, unknown
	}
	im, err := s.layout.index()
	if err != nil {
		return v1.Descriptor{}, err
	}
	if i := slices.IndexFunc(im.Manifests, match); i >= 0 {
		return im.Manifests[i], nil
	}
	return v1.Descriptor{}, unknown
}
