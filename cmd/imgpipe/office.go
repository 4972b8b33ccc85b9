package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"goldsmith/internal/command"
	database "goldsmith/internal/store"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
	"goldsmith/pipeline/engine"
	"goldsmith/pipeline/step"
	"goldsmith/testbed"
)

// defaultDir is where runs and images are kept.
const defaultDir = ".goldsmith"

// databaseVariable names the environment variable with the database's URL.
const databaseVariable = "IMGPIPE_DATABASE"

func dirFlag(fs *flag.FlagSet, dir *string) {
	fs.StringVar(dir, "dir", defaultDir, "keep runs, images and evidence in `directory`")
}

// openDatabase opens the database of a directory: the file in it, unless the
// environment names another.
func openDatabase(ctx context.Context, dir string) (*database.DB, error) {
	return database.Open(ctx, cmp.Or(os.Getenv(databaseVariable), filepath.Join(dir, "imgpipe.db")))
}

// office is what commands about runs work with.
type office struct {
	db     *database.DB
	engine *engine.Engine
	store  *step.Store
}

// openOffice opens the store in a directory, which is made, and its database.
func openOffice(ctx context.Context, dir string) (*office, error) {
	store, err := step.OpenStore(dir)
	if err != nil {
		return nil, err
	}
	db, err := openDatabase(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := belong(ctx, db, dir); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &office{db, engine.New(db), store}, nil
}

// knownOffice is openOffice for commands that only look: nothing is made where
// nothing is. It returns nil then.
func knownOffice(ctx context.Context, dir string) (*office, error) {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) && os.Getenv(databaseVariable) == "" {
		return nil, nil
	}
	return openOffice(ctx, dir)
}

func (o *office) close() { _ = o.db.Close() }

// enter says that stages are worked on in a store, whose evidence the key in a file
// signs; empty means that none does.
func enter(ctx context.Context, store *step.Store, key string) (leave func(), err error) {
	if key != "" {
		if store.Key, err = trust.ReadPrivate(key); err != nil {
			return nil, err
		}
	}
	return store.Enter(ctx)
}

// hasDatabase is the capability of workers that see imgpipe's database, as
// promotions must.
const hasDatabase = "database"

// capabilities are what this machine has of what stages may require: what can be
// seen, and what people say it has.
func capabilities(ctx context.Context, needed func(string) bool, said []string) []string {
	have := append([]string{"arch=" + runtime.GOARCH}, said...)
	if needed("kvm") && testbed.Accelerator(ctx) == testbed.KVM { // it takes seconds to see that KVM does not work
		have = append(have, "kvm")
	}
	if needed("root") && os.Geteuid() == 0 {
		have = append(have, "root")
	}
	return have
}

// able are the capabilities of this machine for a pipeline, or an error that
// names what it lacks.
func able(ctx context.Context, p *pipeline.Pipeline, said []string) ([]string, error) {
	have := capabilities(ctx, func(c string) bool {
		return slices.ContainsFunc(p.Stages, func(s pipeline.Stage) bool { return slices.Contains(s.Requires, c) })
	}, append(said, hasDatabase))
	for _, s := range p.Stages {
		for _, c := range s.Requires {
			if s.Skip == "" && !slices.Contains(have, c) {
				return nil, command.Missing(fmt.Errorf("stage %s requires %s, which this machine does not have", s.Name, c),
					"--capability "+c+" says that it does; --detach leaves the run to workers that do")
			}
		}
	}
	return have, nil
}
