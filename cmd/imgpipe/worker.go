package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
)

// workerFlags are those of 'imgpipe worker'.
type workerFlags struct {
	dir, server, token, ca, key, vulns string
	have                               list
	slots                              int
	json                               bool
	keep                               string // a span
}

func (f *workerFlags) declare(fs *flag.FlagSet) {
	dirFlag(fs, &f.dir)
	fs.StringVar(&f.server, "server", "", "`URL` of the server")
	fs.StringVar(&f.token, "token", "/etc/goldsmith/worker.token", "`file` with the token, which only its owner can read")
	fs.StringVar(&f.ca, "ca", "", "`file` with the certificates that the server's must be signed by; empty: the system's")
	fs.StringVar(&f.key, "evidence-key", "", "sign evidence with the private key in `file`")
	fs.StringVar(&f.vulns, "vuln-db", "", "compare builds by the known vulnerabilities in `file` (OSV format)")
	fs.Var(&f.have, "capability", "this machine has what stages `NAME` in requires; may be given several times")
	fs.IntVar(&f.slots, "jobs", max(1, runtime.NumCPU()/2), "work on so many stages at once")
	fs.BoolVar(&f.json, "json", false, "log JSON, one object a line")
	fs.StringVar(&f.keep, "keep", "14d", "remove images and files that came longer ago than a `time`, and that nobody works on")
}

func workerCommand() *command.Command {
	var f workerFlags
	return &command.Command{
		Name:  "worker",
		Short: "work on the stages of a server's runs",
		Long: `
Takes stages from 'imgpipe serve' that require no more than this machine has, and sends what they leave. It needs
a token of the role worker, by whose name the server calls it, and the pipeline's files where the server has
them: a shared directory, or a checkout at the same path. It never sees the database; images come from the server's
registry, and go there with what was proved about them. Its directory is its own: channels' tags in it follow the
server's. On SIGTERM it takes nothing more; what is being worked on gets a minute, and is given back then.`,
		Example: `imgpipe worker --server https://images.example.org:8443 --token /etc/goldsmith/worker.token --capability bmc-net`,
		Flags:   f.declare,
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 0 || f.server == "" {
				return command.Usage("worker needs --server", "imgpipe worker --server https://images.example.org:8443 --token worker.token")
			}
			return f.work(ctx, io.Stderr)
		},
	}
}

// work takes tasks until ctx ends.
func (f *workerFlags) work(ctx context.Context, log stdio.Writer) error {
	older, err := pipeline.ParseSpan(f.keep)
	if err != nil || older < promotion.MinimumAge {
		return command.Usage(fmt.Sprintf("--keep %q: expected a time of 1h or more, such as 14d", f.keep), "")
	}
	client, err := api.NewClient(f.server, f.token, f.ca)
	if err != nil {
		return err
	}
	store, err := ownStore(f.dir)
	if err != nil {
		return err
	}
	leave, err := enter(ctx, store, f.key)
	if err != nil {
		return err
	}
	defer leave()
	env := step.Env{Store: store, VulnDB: f.vulns}
	if err := equip(&env); err != nil {
		return err
	}
	progress := command.NewProgress("imgpipe", command.IO{Stdout: stdio.Discard, Stderr: stdio.Discard}, false)
	defer progress.Close()
	runner := &step.Runner{Env: env, Progress: progress}
	away := &remote{client: client, runner: runner, dir: f.dir, attempt: runner.Work}
	grace, enough := afterwards(ctx, drainTime)
	defer enough()
	say := logger(log, f.json)
	var wg sync.WaitGroup
	idle, stop := context.WithCancel(ctx)
	wg.Go(func() { away.keepTidy(idle, say, older) })
	defer wg.Wait()
	defer stop()
	w := &engine.Worker{Hub: client, Work: away.work, Log: say, Info: engine.WorkerInfo{
		Slots: f.slots, Version: version, Capabilities: capabilities(ctx, func(string) bool { return true }, f.have)}}
	return w.Run(ctx, grace)
}

// ownStore opens the store of a worker, which nobody decides in: the tags of
// channels are changed there.
func ownStore(dir string) (*step.Store, error) {
	if _, err := os.Stat(filepath.Join(dir, "imgpipe.db")); err == nil {
		return nil, command.BadInput(fmt.Errorf("%s: runs are kept there; a worker's directory is its own", dir),
			"name another with --dir, or let 'imgpipe serve' work itself")
	}
	return step.OpenStore(dir)
}

// remote does attempts whose files belong elsewhere.
type remote struct {
	client  *api.Client
	runner  *step.Runner
	dir     string
	attempt func(context.Context, *engine.Assignment, *command.Meter) engine.Result // runner's, but for tests
	using   uses
}

// sendEvery is how often an attempt's log is sent.
const sendEvery = time.Second

// sendLimit is how long a file may take.
const sendLimit = 10 * time.Minute

// work is step.Runner.Work, with the images that it takes brought here, and what
// it leaves sent to the server.
func (r *remote) work(ctx context.Context, a *engine.Assignment, m *command.Meter) engine.Result {
	need := &needs{using: &r.using}
	defer need.release()
	need.add(runName(fmt.Sprint(a.Run)))
	if err := r.bring(ctx, a, need); err != nil {
		return unfinished(ctx, err)
	}
	held, release := whileHeld(ctx)
	defer release()
	done, sent := make(chan struct{}), make(chan error, 1)
	go func() { sent <- r.sendLog(held, a, done) }()
	res := r.attempt(ctx, a, m)
	close(done)
	err := <-sent
	if !errors.Is(context.Cause(held), engine.ErrLost) {
		err = errors.Join(err, r.sendFiles(held, a))
	}
	if held.Err() == nil {
		// What failed is as good a proof as what passed: a gate must see it.
		if err := r.sendImages(held, a, res.Image); err != nil {
			return unfinished(held, err)
		}
	}
	if res.State == pipeline.Passed && (err != nil || held.Err() != nil) {
		// What was found out would be lost with what proves it.
		return unfinished(held, fmt.Errorf("what the stage left could not be sent: %w", cmp.Or(err, context.Cause(held))))
	}
	return res
}

// whileHeld is a context for what is done after an attempt's work: it goes on
// when the time for that is over, and ends with ctx when the attempt was told to
// end, is lost, or is given back.
func whileHeld(ctx context.Context) (held context.Context, release func()) {
	held, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		cause := context.Cause(ctx)
		if errors.Is(cause, engine.ErrLost) || errors.Is(cause, engine.ErrStopped) || errors.Is(cause, engine.ErrDraining) {
			cancel(cause)
		}
	})
	return held, func() { stop(); cancel(nil) }
}

// unfinished is the result of an attempt that says nothing about the image.
func unfinished(ctx context.Context, err error) engine.Result {
	res := engine.Result{State: pipeline.Failed, Class: engine.ClassInfra, Reason: err.Error(), Exit: command.Status(err), Hint: command.HintOf(err)}
	if cause := context.Cause(ctx); errors.Is(cause, engine.ErrStopped) {
		res.State, res.Reason = pipeline.Interrupted, cause.Error()
	}
	return res
}

// sendLog sends what is added to an attempt's log, until done and all of it is
// sent. What cannot be sent now is sent later.
func (r *remote) sendLog(held context.Context, a *engine.Assignment, done <-chan struct{}) error {
	ctx := context.WithoutCancel(held)
	file := filepath.Join(engine.AttemptDir(r.dir, a.Run, a.Stage, a.Number), "log")
	tick := time.NewTicker(sendEvery)
	defer tick.Stop()
	offset := int64(0)
	for {
		n, _ := r.sendPart(ctx, a, file, offset) // what went wrong is tried again
		offset += n
		if n == logPart {
			continue
		}
		select {
		case <-tick.C:
			continue
		case <-done:
		}
		return persist(held, func() error {
			for {
				n, err := r.sendPart(ctx, a, file, offset)
				offset += n
				if err != nil || n == 0 {
					return err
				}
			}
		})
	}
}

// logPart is how much of a log is sent at once, in bytes.
const logPart = 256 << 10

func (r *remote) sendPart(ctx context.Context, a *engine.Assignment, file string, offset int64) (int64, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b, err := stdio.ReadAll(stdio.NewSectionReader(f, offset, logPart))
	if err != nil || len(b) == 0 {
		return 0, err
	}
	err = r.client.Send(ctx, http.MethodPost, fmt.Sprintf("/v1/work/%d/log?offset=%d", a.Attempt, offset), bytes.NewReader(b), nil, time.Minute)
	if err != nil {
		return 0, err
	}
	return int64(len(b)), nil
}

// sendFiles sends what an attempt left beside its log.
func (r *remote) sendFiles(held context.Context, a *engine.Assignment) error {
	ctx := context.WithoutCancel(held)
	dir := engine.AttemptDir(r.dir, a.Run, a.Stage, a.Number)
	var errs []error
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || !d.Type().IsRegular() || name == "log" {
			return err
		}
		errs = append(errs, persist(held, func() error {
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return r.client.Send(ctx, http.MethodPut, fmt.Sprintf("/v1/work/%d/files/%s", a.Attempt, escaped(name)), f, nil, sendLimit)
		}))
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return cmp.Or(err, errors.Join(errs...))
}

// escaped is a file's name in a URL.
func escaped(name string) string { return (&url.URL{Path: name}).EscapedPath() }
