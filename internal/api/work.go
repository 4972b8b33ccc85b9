package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/pipeline/engine"
)

// A worker is its token: the server calls it by that name, whatever it says.

// Claim asks for work.
type Claim struct {
	Worker engine.WorkerInfo `json:"worker"` // without a name
	Wait   float64           `json:"wait_s"` // how long there may be nothing, in seconds; 50 at most
}

// Claimed is work, or none.
type Claimed struct {
	Assignment *engine.Assignment `json:"assignment,omitempty"`
}

// Beat says that an attempt goes on.
type Beat struct {
	Progress string  `json:"progress,omitempty"`
	Wait     float64 `json:"wait_s"` // as in Claim
}

func (s *Server) workRoutes() []route {
	post, put := http.MethodPost, http.MethodPut
	return []route{
		{method: post, path: "/v1/work/claim", role: Work, summary: "take a task", in: Claim{}, out: Claimed{}, serve: s.claim},
		{method: post, path: "/v1/work/leave", role: Work, summary: "the worker is gone", out: Done{}, serve: s.leave},
		{method: post, path: "/v1/work/{attempt}/beat", role: Work, summary: "an attempt goes on; the answer is an order", in: Beat{}, out: engine.Order{}, serve: s.beat},
		{method: post, path: "/v1/work/{attempt}/finish", role: Work, summary: "an attempt has ended", in: engine.Result{}, out: Done{}, serve: s.finish},
		{method: post, path: "/v1/work/{attempt}/log", role: Work, summary: "what an attempt wrote, as text", query: map[string]string{"offset": "where it belongs, in bytes"}, serve: s.appendLog},
		{method: put, path: "/v1/work/{attempt}/files/{file...}", role: Work, summary: "a file that an attempt leaves", out: Done{}, serve: s.putFile, raw: true},
	}
}

func waiting(seconds float64) time.Duration {
	return min(max(0, time.Duration(seconds*float64(time.Second))), maxWait)
}

func (s *Server) claim(w http.ResponseWriter, r *http.Request) {
	var in Claim
	err := read(r, &in)
	var a *engine.Assignment
	if err == nil {
		in.Worker.Name, in.Worker.Run = actor(r), 0
		a, err = s.Engine.Claim(r.Context(), in.Worker, waiting(in.Wait))
	}
	s.reply(w, Claimed{a}, err)
}

func (s *Server) leave(w http.ResponseWriter, r *http.Request) {
	s.reply(w, Done{true}, s.Engine.Leave(r.Context(), actor(r)))
}

// attempt is the one that a request is about, if it is the worker's own.
func (s *Server) attempt(r *http.Request) (*engine.Held, error) {
	id, err := engine.Number(r.PathValue("attempt"))
	if err != nil {
		return nil, err
	}
	return s.Engine.Held(r.Context(), id, actor(r))
}

func (s *Server) beat(w http.ResponseWriter, r *http.Request) {
	var in Beat
	var o engine.Order
	a, err := s.attempt(r)
	if err == nil {
		err = read(r, &in)
	}
	if err == nil {
		o, err = s.Engine.Beat(r.Context(), a.Attempt, in.Progress, waiting(in.Wait))
	}
	if errors.Is(err, engine.ErrLost) {
		o, err = engine.Order{Lost: true}, nil
	}
	s.reply(w, o, err)
}

func (s *Server) finish(w http.ResponseWriter, r *http.Request) {
	var in engine.Result
	a, err := s.attempt(r)
	if err == nil {
		err = read(r, &in)
	}
	if err == nil {
		err = s.Engine.Finish(r.Context(), a.Attempt, in)
	}
	s.reply(w, Done{true}, err)
}

// appendLog adds to an attempt's log. What is there already is not changed: a
// worker that does not know whether it was heard says it again.
func (s *Server) appendLog(w http.ResponseWriter, r *http.Request) {
	a, err := s.attempt(r)
	var offset int
	if err == nil {
		offset, err = number(r, "offset", 0, 1<<40)
	}
	if err == nil {
		err = s.addToLog(a, int64(offset), r.Body)
	}
	s.reply(w, Done{true}, err)
}

func (s *Server) addToLog(a *engine.Held, offset int64, body io.Reader) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	dir := engine.AttemptDir(s.Dir, a.Run, a.Stage, a.Number)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end >= engine.MaxLog+engine.LogEnd {
		return nil // workers cut theirs before that
	}
	if offset > end {
		return command.Usage(fmt.Sprintf("offset %d: the log has %d bytes", offset, end), "")
	}
	if known := end - offset; known < int64(len(b)) {
		_, err = f.Write(b[known:])
	}
	return err
}

// room is how many bytes an attempt's files may have beside those that it has:
// name is written anew.
func room(root *os.Root, name string) (int64, error) {
	left := int64(engine.MaxFiles)
	err := fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == "log" || path == name {
			return err
		}
		if fi, err := d.Info(); err == nil {
			left -= fi.Size()
		}
		return nil
	})
	return left, err
}

// putFile keeps a file of an attempt.
func (s *Server) putFile(w http.ResponseWriter, r *http.Request) {
	a, err := s.attempt(r)
	if err == nil {
		var done func()
		if done, err = s.turn(r.Context(), a.Attempt); err == nil {
			err = s.keepFile(a, r.PathValue("file"), r.Body)
			done()
		}
	}
	s.reply(w, Done{true}, err)
}

// turn waits until no other file of an attempt is being kept, as each is
// measured against what the others have left. done ends the turn.
func (s *Server) turn(ctx context.Context, attempt int64) (done func(), err error) {
	for {
		s.mu.Lock()
		other := s.putting[attempt]
		if other == nil {
			mine := make(chan struct{})
			s.putting[attempt] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.putting, attempt)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *Server) keepFile(a *engine.Held, name string, body io.Reader) error {
	if !filepath.IsLocal(name) || name != filepath.Clean(name) || name == "." || name == "log" || engine.TooDeep(name) {
		return command.Usage(fmt.Sprintf("file %q: expected a relative path of %d directories at most", name, engine.MaxDepth), "")
	}
	dir := engine.AttemptDir(s.Dir, a.Run, a.Stage, a.Number)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// Nothing that is written here follows a link out of the directory.
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if d := filepath.Dir(name); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	left, err := room(root, name)
	if err != nil {
		return err
	}
	part := name + ".part"
	f, err := root.Create(part)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, io.LimitReader(body, max(0, left)+1))
	if err == nil && n > left {
		err = command.Usage(fmt.Sprintf("file %q: an attempt's files may have %d MiB, and it has left the others", name, engine.MaxFiles>>20), "")
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(part, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(part))
	}
	return atomicfile.SyncDir(filepath.Dir(filepath.Join(dir, name)))
}
