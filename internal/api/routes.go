package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/store"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/testbed/inventory"
)

// Health is the answer about health.
type Health struct {
	Status  string `json:"status"` // ok
	Version string `json:"version"`
}

// Submission asks for a run.
type Submission struct {
	File   string            `json:"file"` // the pipeline file, absolute, on the server
	Inputs map[string]string `json:"inputs,omitempty"`
	Author string            `json:"author,omitempty"` // who made what is built; empty: the token's name
}

// Submitted is a run that was made.
type Submitted struct {
	Run int64 `json:"run"`
}

// Reason is why somebody wants something.
type Reason struct {
	Why string `json:"why"`
}

// Again asks for a retry.
type Again struct {
	Stage string `json:"stage,omitempty"` // empty: all that failed
}

// Runs are the newest ones, oldest first.
type Runs struct {
	Runs []*pipeline.Run `json:"runs"`
}

// Nodes are those of the inventory, by name.
type Nodes struct {
	Nodes []*inventory.Node `json:"nodes"`
}

// Done is the answer of what has no other.
type Done struct {
	OK bool `json:"ok"`
}

func (s *Server) routes() []route {
	get, post := http.MethodGet, http.MethodPost
	all := []route{
		{method: get, path: "/healthz", summary: "whether the process works", out: Health{}, serve: s.health},
		{method: get, path: "/readyz", summary: "whether it can do its work: the database answers", out: Health{}, serve: s.ready},
		{method: get, path: "/metrics", role: Viewer, summary: "figures for Prometheus", serve: s.metrics},
		{method: get, path: "/openapi.json", summary: "this description", serve: s.openapi},
		{method: get, path: "/v1/runs", role: Viewer, summary: "the newest runs, oldest first", query: map[string]string{"n": "at most so many, up to 1000; 20 unless given"}, out: Runs{}, serve: s.runs},
		{method: post, path: "/v1/runs", role: Operator, summary: "make a run", in: Submission{}, out: Submitted{}, serve: s.submit},
		{method: get, path: "/v1/runs/{run}", role: Viewer, summary: "one run", query: map[string]string{"changed": "wait for the run to end, up to so many seconds, 50 at most"}, out: pipeline.Run{}, serve: s.run},
		{method: post, path: "/v1/runs/{run}/cancel", role: Operator, summary: "end a run", in: Reason{}, out: Done{}, serve: s.cancel},
		{method: post, path: "/v1/runs/{run}/retry", role: Operator, summary: "do again what failed", in: Again{}, out: Done{}, serve: s.retry},
		{method: get, path: "/v1/runs/{run}/stages/{stage}/log", role: Viewer, summary: "what an attempt wrote, as text", query: map[string]string{"attempt": "which; the newest unless given", "offset": "begin there, in bytes"}, serve: s.log},
		{method: get, path: "/v1/runs/{run}/stages/{stage}/files/{file...}", role: Viewer, summary: "a file that an attempt left, such as junit.xml", query: map[string]string{"attempt": "which; the newest unless given"}, serve: s.file},
		{method: get, path: "/v1/workers", role: Viewer, summary: "workers that were heard of lately", out: []engine.WorkerInfo{}, serve: s.workers},
		{method: get, path: "/v1/nodes", role: Viewer, summary: "the inventory", out: Nodes{}, serve: s.nodes},
		{method: get, path: "/v1/audit", role: Admin, summary: "requests and commands that changed something or were refused", query: map[string]string{"n": "at most so many; 100 unless given"}, out: []Request{}, serve: s.audit},
	}
	return slices.Concat(all, s.channelRoutes(), s.workRoutes())
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, Health{"ok", s.Version})
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	err := s.DB.View(ctx, func(tx *store.Tx) error {
		var n int
		return tx.QueryRow(ctx, "SELECT COUNT(*) FROM worker").Scan(&n)
	})
	if err != nil {
		s.Log.Error("not ready", "error", err)
		answer(w, http.StatusServiceUnavailable, Problem{Error: "the database does not answer"})
		return
	}
	answer(w, http.StatusOK, Health{"ok", s.Version})
}

// number reads a query's number between 1 and most.
func number(r *http.Request, name string, usual, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > most {
		return 0, command.Usage(fmt.Sprintf("%s=%q: expected a number up to %d", name, text, most), "")
	}
	return n, nil
}

func (s *Server) runs(w http.ResponseWriter, r *http.Request) {
	n, err := number(r, "n", 20, 1000)
	if err != nil {
		s.fail(w, err)
		return
	}
	runs, err := s.Engine.Runs(r.Context(), n)
	s.reply(w, Runs{runs}, err)
}

func (s *Server) run(w http.ResponseWriter, r *http.Request) {
	id, err := engine.Number(r.PathValue("run"))
	if err != nil {
		s.fail(w, err)
		return
	}
	wait, err := number(r, "changed", 0, int(maxWait.Seconds()))
	if err != nil {
		s.fail(w, err)
		return
	}
	deadline := time.After(time.Duration(wait) * time.Second)
	for {
		changed := s.DB.Changed()
		run, err := s.Engine.Run(r.Context(), id)
		if err != nil || wait == 0 || run.Status.Ended() {
			s.reply(w, run, err)
			return
		}
		select {
		case <-deadline:
			s.reply(w, run, nil)
			return
		case <-r.Context().Done():
			return
		case <-changed:
		}
	}
}

func (s *Server) submit(w http.ResponseWriter, r *http.Request) {
	var in Submission
	if err := read(r, &in); err != nil {
		s.fail(w, err)
		return
	}
	file, err := s.source(in.File)
	if err != nil {
		s.fail(w, err)
		return
	}
	if in.Author == "" {
		in.Author = actor(r)
	}
	id, err := s.Submit(r.Context(), file, in.Inputs, in.Author, actor(r))
	s.reply(w, Submitted{id}, err)
}

// source is the file that a run may be made of: below one of the directories,
// also after links were followed.
func (s *Server) source(file string) (string, error) {
	if !filepath.IsAbs(file) {
		return "", command.Usage(fmt.Sprintf("file %q: expected an absolute path", file), "")
	}
	real, err := filepath.EvalSymlinks(file)
	if err == nil {
		for _, dir := range s.Sources {
			abs, err := filepath.Abs(dir)
			if err != nil {
				return "", err
			}
			if d, err := filepath.EvalSymlinks(abs); err == nil && strings.HasPrefix(real, strings.TrimSuffix(d, "/")+"/") {
				return real, nil
			}
		}
	}
	return "", command.Usage(fmt.Sprintf("file %q: not there, or not below the directories that runs are made of", file), "the server's setting sources names them")
}

func (s *Server) cancel(w http.ResponseWriter, r *http.Request) {
	id, err := engine.Number(r.PathValue("run"))
	var in Reason
	if err == nil {
		err = read(r, &in)
	}
	if err == nil {
		err = s.Engine.Cancel(r.Context(), id, actor(r), in.Why)
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) retry(w http.ResponseWriter, r *http.Request) {
	id, err := engine.Number(r.PathValue("run"))
	var in Again
	if err == nil {
		err = read(r, &in)
	}
	if err == nil {
		err = s.Engine.Retry(r.Context(), id, in.Stage, actor(r), "")
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) log(w http.ResponseWriter, r *http.Request) {
	f, err := s.openLog(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = io.Copy(w, f) // whoever asked is gone
}

func (s *Server) openLog(r *http.Request) (*os.File, error) {
	dir, err := s.attemptDir(r)
	if err != nil {
		return nil, err
	}
	offset, err := number(r, "offset", 0, 1<<40)
	if err != nil {
		return nil, err
	}
	f, err := engine.OpenFile(dir, "log")
	if errors.Is(err, os.ErrNotExist) {
		f, err = os.Open(os.DevNull) // the attempt has written nothing yet
	}
	if err == nil {
		_, err = f.Seek(int64(offset), io.SeekStart)
	}
	return f, err
}

// attemptDir is where the files of the attempt lie that a request names.
func (s *Server) attemptDir(r *http.Request) (string, error) {
	id, err := engine.Number(r.PathValue("run"))
	if err != nil {
		return "", err
	}
	run, err := s.Engine.Run(r.Context(), id)
	if err != nil {
		return "", err
	}
	// The name is one of the run's own, so it is no path.
	i := slices.IndexFunc(run.Stages, func(st *pipeline.StageRun) bool { return st.Name == r.PathValue("stage") })
	if i < 0 {
		return "", command.Usage(fmt.Sprintf("run %d has no stage %q", id, r.PathValue("stage")), "")
	}
	n, err := number(r, "attempt", len(run.Stages[i].Attempts), len(run.Stages[i].Attempts))
	if err != nil || n == 0 {
		return "", errors.Join(err, command.Usage("the stage has not begun", ""))
	}
	return engine.AttemptDir(s.Dir, id, run.Stages[i].Name, n), nil
}

// errNoFile says that an attempt left no such file.
var errNoFile = errors.New("the attempt left no such file")

// file serves what an attempt left, and nothing that a link in it leads to
// elsewhere.
func (s *Server) file(w http.ResponseWriter, r *http.Request) {
	dir, err := s.attemptDir(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	f, err := engine.OpenFile(dir, r.PathValue("file"))
	if err != nil {
		refuse(w, http.StatusNotFound, errNoFile) // what is in the way is nobody's business
		return
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = io.Copy(w, f) // whoever asked is gone
}

func (s *Server) workers(w http.ResponseWriter, r *http.Request) {
	list, err := s.Engine.Workers(r.Context())
	s.reply(w, list, err)
}

func (s *Server) nodes(w http.ResponseWriter, r *http.Request) {
	list, err := inventory.New(s.DB).Nodes(r.Context())
	s.reply(w, Nodes{list}, err)
}

func (s *Server) audit(w http.ResponseWriter, r *http.Request) {
	n, err := number(r, "n", 100, 10000)
	if err != nil {
		s.fail(w, err)
		return
	}
	list, err := s.access.Audit(r.Context(), n)
	s.reply(w, list, err)
}
