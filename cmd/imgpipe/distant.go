package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	stdio "io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
)

// distant are the flags of commands that can ask a server, in place of looking
// into a directory.
type distant struct{ server, token, ca string }

func (d *distant) declare(fs *flag.FlagSet) {
	fs.StringVar(&d.server, "server", "", "ask the server at `URL` in place of looking into --dir")
	fs.StringVar(&d.token, "token", "", "`file` with the token for --server, which only its owner can read")
	fs.StringVar(&d.ca, "ca", "", "`file` with the certificates that the server's must be signed by; empty: the system's")
}

// callLimit is how long a server may take to answer.
const callLimit = time.Minute

// open returns the client of the server, nil where none is named.
func (d *distant) open() (*distantServer, error) {
	if d.server == "" {
		if d.token != "" || d.ca != "" {
			return nil, command.Usage("--token and --ca are for --server", "")
		}
		return nil, nil
	}
	if d.token == "" {
		return nil, command.Usage("--server needs --token FILE", "'imgpipe token add' makes one, where the server is")
	}
	c, err := api.NewClient(d.server, d.token, d.ca)
	if err != nil {
		return nil, err
	}
	return &distantServer{c}, nil
}

// distantServer answers what a directory would.
type distantServer struct{ *api.Client }

func runPath(id int64, more string) string { return fmt.Sprintf("/v1/runs/%d%s", id, more) }

func (s *distantServer) run(ctx context.Context, id int64) (*pipeline.Run, error) {
	r := &pipeline.Run{}
	return r, s.Call(ctx, http.MethodGet, runPath(id, ""), nil, r, callLimit)
}

// submit makes a run of a file that the server has at that path.
func (s *distantServer) submit(ctx context.Context, file string, set map[string]string, author string) (int64, error) {
	abs, err := filepath.Abs(file)
	if err != nil {
		return 0, err
	}
	var made api.Submitted
	err = s.Call(ctx, http.MethodPost, "/v1/runs", api.Submission{File: abs, Inputs: set, Author: author}, &made, callLimit)
	return made.Run, err
}

func (s *distantServer) cancel(ctx context.Context, id int64, why string) error {
	return s.Call(ctx, http.MethodPost, runPath(id, "/cancel"), api.Reason{Why: why}, nil, callLimit)
}

func (s *distantServer) retry(ctx context.Context, id int64, stage string) error {
	return s.Call(ctx, http.MethodPost, runPath(id, "/retry"), api.Again{Stage: stage}, nil, callLimit)
}

// status is office.status.
func (s *distantServer) status(ctx context.Context, out *status, args []string, n int) error {
	if len(args) == 1 {
		id, err := engine.Number(args[0])
		if err != nil {
			return err
		}
		r, err := s.run(ctx, id)
		if err != nil {
			return err
		}
		out.Runs = append(out.Runs, r)
	} else {
		var runs api.Runs
		if err := s.Call(ctx, http.MethodGet, fmt.Sprintf("/v1/runs?n=%d", n), nil, &runs, callLimit); err != nil {
			return err
		}
		out.Runs = append(out.Runs, runs.Runs...)
	}
	tags, err := s.Images().Tags(ctx)
	if err != nil {
		return err
	}
	out.Channels = tags
	return s.Call(ctx, http.MethodGet, "/v1/workers", nil, &out.Workers, callLimit)
}

// log implements place.
func (s *distantServer) log(ctx context.Context, out *logOutput, id int64, name string, attempt int, follow bool) error {
	offset := int64(0)
	for {
		r, err := s.run(ctx, id)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Stages, func(st *pipeline.StageRun) bool { return st.Name == name })
		if i < 0 {
			return command.BadInput(fmt.Errorf("run %d has no stage %q", id, name), "'imgpipe status' shows its stages")
		}
		n := cmp.Or(attempt, len(r.Stages[i].Attempts))
		begun := n > 0 && n <= len(r.Stages[i].Attempts)
		if !begun && (!follow || r.Status.Ended()) {
			return command.Usage(fmt.Sprintf("run %d: stage %s has not begun", id, name), "'imgpipe status' shows why")
		}
		if begun {
			attempt = n // also when another begins
			path := runPath(id, "/stages/"+url.PathEscape(name)+fmt.Sprintf("/log?attempt=%d&offset=%d", n, offset))
			read, err := s.Copy(ctx, path, callLimit, func(r stdio.Reader) error { return out.take(r, name, n) })
			offset += read
			if err != nil {
				return err
			}
			if !follow || r.Stages[i].Attempts[n-1].Ended != nil {
				return out.end()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}
