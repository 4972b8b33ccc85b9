package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"goldsmith/internal/api"
	"goldsmith/internal/command"
	"goldsmith/internal/promotion"
	database "goldsmith/internal/store"
	"goldsmith/internal/trust"
	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
	"goldsmith/testbed/metal"
)

// settings are the file of 'imgpipe serve' (docs/formats.md, Server file).
type settings struct {
	APIVersion string   `yaml:"apiVersion"`
	Dir        string   // where runs, images and evidence are kept
	Database   string   // URL of a PostgreSQL database; empty: a file in Dir
	Listen     string   // address; empty: 127.0.0.1:8480
	Cert       string   `yaml:"certificate"` // PEM file; empty: no TLS, on loopback only
	Key        string   // its key
	Channels   string   // file with channels, alone or a pipeline's; empty: none are moved over HTTP
	Sources    []string // directories below which pipeline files may be named
	Evidence   string   `yaml:"evidence-key"` // private key that signs evidence; empty: none does
	VulnDB     string   `yaml:"vuln-db"`      // vulnerabilities in OSV's format; empty: none
	// Sites are the networks whose servers are looked after here.
	Sites []siteSettings
	// Keep says how long what.
	Keep keepSettings
	// Worker is what this process works on; without it, nothing.
	Worker *workerSettings
}

// workerSettings say how a server works on stages itself.
type workerSettings struct {
	Name         string // empty: the host's
	Slots        int    // stages at once; 0: half of the processors
	Capabilities []string
}

const serverAPIVersion = "goldsmith/v1"

// usualListen is where imgpipe is served unless the settings say otherwise.
const usualListen = "127.0.0.1:8480"

func readSettings(file string) (*settings, error) {
	s := &settings{}
	f, err := yamlfile.Read(file, s)
	if err != nil {
		return nil, err
	}
	beside := func(path *string) {
		if *path != "" && !filepath.IsAbs(*path) {
			*path = filepath.Join(filepath.Dir(file), *path)
		}
	}
	for _, p := range []*string{&s.Dir, &s.Cert, &s.Key, &s.Channels, &s.Evidence, &s.VulnDB} {
		beside(p)
	}
	for i := range s.Sources {
		beside(&s.Sources[i])
	}
	for i := range s.Sites {
		beside(&s.Sites[i].Ramdisk)
		beside(&s.Sites[i].Namespace)
	}
	if _, err := retain(s.Keep.History, s.Keep.Audit); err != nil {
		return nil, f.Errorf([]any{"keep"}, "keep: %v", err)
	}
	s.Listen = cmp.Or(s.Listen, usualListen)
	host, _, err := net.SplitHostPort(s.Listen)
	switch ip := net.ParseIP(host); {
	case s.APIVersion != serverAPIVersion:
		return nil, f.Errorf([]any{"apiVersion"}, "apiVersion %q: this program reads %q", s.APIVersion, serverAPIVersion)
	case s.Dir == "":
		return nil, f.Errorf([]any{"dir"}, "dir is missing: where runs, images and evidence are kept")
	case err != nil:
		return nil, f.Errorf([]any{"listen"}, "listen %q: expected an address and a port, such as 0.0.0.0:8443", s.Listen)
	case (s.Cert == "") != (s.Key == ""):
		return nil, f.Errorf([]any{"certificate"}, "certificate and key belong together")
	case s.Cert == "" && !(ip != nil && ip.IsLoopback()):
		return nil, f.Errorf([]any{"listen"}, "listen %q: without a certificate tokens could be read on the way; give certificate and key, or listen on 127.0.0.1", s.Listen)
	}
	return s, checkSites(f, s.Sites)
}

func serveCommand() *command.Command {
	var file string
	var asJSON bool
	return &command.Command{
		Name:  "serve",
		Short: "serve runs to people, programs and workers",
		Long: `
Serves the API (/openapi.json describes it) and images (/v2/, a registry), looks after runs, and works on them where
its file says so. For servers it serves what they start from the network and ask for, and looks after them. Several
may use one PostgreSQL database; any of them may die. It ends on SIGTERM: what is being worked on gets
a minute to end, and is given back then. Tokens are made by 'imgpipe token'.`,
		Example: `imgpipe serve --config /etc/goldsmith/imgpipe.yaml`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&file, "config", "/etc/goldsmith/imgpipe.yaml", "read the settings from `file`")
			fs.BoolVar(&asJSON, "json", false, "log JSON, one object a line")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 0 {
				return command.Usage("serve takes no arguments", "")
			}
			s, err := readSettings(file)
			if err != nil {
				return err
			}
			return serve(ctx, logger(io.Stderr, asJSON), s)
		},
	}
}

func logger(w stdio.Writer, asJSON bool) *slog.Logger {
	if asJSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// drainTime is how long what is worked on may go on after SIGTERM.
const drainTime = time.Minute

// serve serves until ctx ends.
func serve(ctx context.Context, log *slog.Logger, s *settings) (err error) {
	store, err := step.OpenStore(s.Dir)
	if err != nil {
		return err
	}
	leave, err := enter(ctx, store, s.Evidence)
	if err != nil {
		return err
	}
	defer leave()
	db, err := database.Open(ctx, cmp.Or(s.Database, os.Getenv(databaseVariable), filepath.Join(s.Dir, "imgpipe.db")))
	if err != nil {
		return err
	}
	defer db.Close()
	if err := belong(ctx, db, s.Dir); err != nil {
		return err
	}
	e := engine.New(db)
	e.Log = log
	l, err := listen(s)
	if err != nil {
		return err
	}
	queue, err := engine.StartDispatcher(ctx, e)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	k, err := retain(s.Keep.History, s.Keep.Audit)
	if err != nil {
		return errors.Join(err, l.Close(), queue.Close())
	}
	book := promotion.New(db, store.Images)
	ending, ended := context.WithCancel(ctx)
	var forgets sync.WaitGroup
	forgets.Go(func() { k.keepForgetting(ending, log, e, book, store) })
	defer forgets.Wait()
	defer ended()
	policies := policiesOf(s.Channels, store.Key)
	h := api.New(api.Config{Engine: e, DB: db, Dir: s.Dir, Sources: s.Sources, Submit: submitter(e), Version: version, Log: log,
		Book: book, Policies: policies, Images: registryOf(store, db, policies, log)})
	log.Info("serving", "address", l.Addr().String(), "database", database.Redacted(db.Where()), "version", version)
	err = attend(ctx, log, s, l, h, step.Env{Store: store, DB: db, Sites: &metal.Sites{}, VulnDB: s.VulnDB}, e)
	return errors.Join(err, queue.Close())
}

// attend answers requests, and works on stages where the settings say so, until
// ctx ends or one of both cannot go on.
func attend(ctx context.Context, log *slog.Logger, s *settings, l net.Listener, h http.Handler, env step.Env, e *engine.Engine) error {
	if err := equip(&env); err != nil {
		return errors.Join(err, l.Close())
	}
	web := &http.Server{
		Handler: h,
		// A body's time is bounded by the handlers, which know how large it may be.
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			end(err)
		}
	})
	networks := &served{}
	for _, site := range s.Sites {
		env.Sites.Reserve(site.Network)
		wg.Go(func() { site.serve(ctx, log, env, networks) })
	}
	if s.Worker != nil {
		grace, enough := afterwards(ctx, drainTime)
		defer enough()
		wg.Go(func() {
			if err := work(ctx, grace, log, s, env, e, networks); err != nil {
				end(err)
			}
		})
	}
	<-ctx.Done()
	log.Info("ending")
	brief, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if web.Shutdown(brief) != nil {
		_ = web.Close() // who still waits is cut off
	}
	wg.Wait()
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// afterwards is a context that ends some time after ctx.
func afterwards(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(d, cancel) })
	return later, func() { stop(); cancel() }
}

func listen(s *settings) (net.Listener, error) {
	l, err := net.Listen("tcp", s.Listen)
	if err != nil || s.Cert == "" {
		return l, err
	}
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	if err != nil {
		return nil, errors.Join(command.BadInput(fmt.Errorf("%s: %w", s.Cert, err), "certificate and key are PEM files that belong together"), l.Close())
	}
	return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}), nil
}

// work is the server's own worker.
func work(ctx, grace context.Context, log *slog.Logger, s *settings, env step.Env, hub engine.Hub, networks *served) error {
	info := engine.WorkerInfo{Name: s.Worker.Name, Slots: cmp.Or(s.Worker.Slots, max(1, runtime.NumCPU()/2)), Version: version}
	if info.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		info.Name = host
	}
	info.Capabilities = capabilities(ctx, func(string) bool { return true }, append(s.Worker.Capabilities, hasDatabase))
	progress := command.NewProgress("imgpipe", command.IO{Stdout: stdio.Discard, Stderr: stdio.Discard}, false)
	defer progress.Close()
	runner := &step.Runner{Env: env, Progress: progress}
	w := &engine.Worker{Info: info, Hub: hub, Work: runner.Work, Can: networks.capabilities, Log: log}
	return w.Run(ctx, grace)
}

// submitter makes runs of files.
func submitter(e *engine.Engine) func(context.Context, string, map[string]string, string, string) (int64, error) {
	return func(ctx context.Context, file string, inputs map[string]string, author, actor string) (int64, error) {
		p, err := pipeline.LoadWith(file, inputs, step.Names())
		if err != nil {
			return 0, err
		}
		if _, err := makeSteps(step.Env{}, file, p); err != nil {
			return 0, err
		}
		return e.Submit(ctx, engine.Submission{Pipeline: p, File: file, Author: author, Actor: actor})
	}
}

// policiesOf reads the channels of a file, as it is then; nil where there is none.
// The key signs what is said of promotions where a channel has none.
func policiesOf(file string, key *trust.PrivateKey) func() ([]*promotion.Policy, error) {
	if file == "" {
		return nil
	}
	return func() ([]*promotion.Policy, error) {
		all, err := pipeline.LoadPolicies(file)
		if err != nil {
			return nil, err
		}
		var list []*promotion.Policy
		for i := range all.Channels {
			p, err := promotion.NewPolicy(&all.Channels[i], filepath.Dir(file))
			if err != nil {
				return nil, err
			}
			p.AttestWith(key)
			list = append(list, p)
		}
		return list, nil
	}
}
