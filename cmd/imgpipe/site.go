package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"goldsmith/internal/yamlfile"
	"goldsmith/pipeline/step"
	"goldsmith/testbed/inventory"
	"goldsmith/testbed/metal"
)

// siteSettings say how a server serves a network of the inventory (docs/formats.md,
// Server file).
type siteSettings struct {
	Network   string   // empty: the inventory's only one
	Ramdisk   string   // the deploy ramdisk, without .vmlinuz and .initrd
	Cmdline   string   // added to kernel command lines
	Notify    []string // program with its arguments
	Namespace string   // file of the network namespace; empty: the host's
}

func checkSites(f *yamlfile.File, sites []siteSettings) error {
	seen := map[string]bool{}
	for i, s := range sites {
		switch {
		case s.Ramdisk == "":
			return f.Errorf([]any{"sites", i}, "ramdisk is missing: where imgbuild wrote the deploy ramdisk, without .vmlinuz")
		case seen[s.Network] || len(sites) > 1 && s.Network == "":
			return f.Errorf([]any{"sites", i}, "network %q: each site has a network of its own", s.Network)
		}
		seen[s.Network] = true
	}
	return nil
}

// networkCapability begins the capability of workers that serve a network.
const networkCapability = "network="

// served are the networks that a server serves by now.
type served struct {
	mu    sync.Mutex // guards names
	names []string
}

func (s *served) add(network string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, network)
}

// capabilities are those of the server's own worker.
func (s *served) capabilities() (have []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.names {
		have = append(have, networkCapability+n)
	}
	return have
}

// siteAgain is when a network is tried again that could not be served: another
// process serves it, or the file of the inventory is not applied yet.
const siteAgain = 10 * time.Second

// serve serves the network until ctx ends, from when on it can.
func (s siteSettings) serve(ctx context.Context, log *slog.Logger, env step.Env, now *served) {
	c := metal.Config{Inventory: inventory.New(env.DB), Network: s.Network, Dir: env.Store.Metal(), Images: env.Store.Images.Dir(),
		Ramdisk: metal.RamdiskAt(s.Ramdisk), Cmdline: s.Cmdline, Notify: s.Notify, Lasting: true}
	log = log.With("network", s.Network)
	for told := ""; ; {
		site, err := env.Sites.Use(ctx, c, s.Namespace)
		if err == nil {
			log.Info("serving servers", "url", site.URL())
			now.add(site.Network())
			<-ctx.Done()
			if err := site.Close(); err != nil {
				log.Error("the network's service did not end well", "error", err)
			}
			return
		}
		if ctx.Err() != nil {
			return
		}
		if told != err.Error() {
			told = err.Error()
			log.Warn("the network cannot be served yet; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(siteAgain):
		}
	}
}
