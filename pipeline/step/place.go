package step

import (
	"context"
	"fmt"

	"goldsmith/internal/evidence"
	"goldsmith/internal/machineapi"
	"goldsmith/internal/registry"
	"goldsmith/internal/seed"
	"goldsmith/pipeline"
	"goldsmith/testbed"
)

// place is where a stage's machines come from: a libvirtd, for example.
type place interface {
	// check says whether this host has what the place needs.
	check(ctx context.Context) error
	// open makes the place ready for one stage. What it returns is closed by
	// its caller.
	open(ctx context.Context, j *pipeline.Job) (bench, error)
}

// bench is a place that is ready.
type bench interface {
	// network is from where machines are reached.
	network() testbed.Network
	// serve returns what answers machines until the bench is closed.
	serve(ctx context.Context) (*machineapi.Server, error)
	// install makes a machine with an image on its disk. It has not started
	// from that yet; its caller releases it.
	install(ctx context.Context, o order) (machine, error)
	// close releases everything but machines.
	close() error
}

// machine is what a stage needs of one.
type machine interface {
	testbed.Machine
	testbed.Consoled
	testbed.Addressed
}

// described is a machine that can say what evidence was gathered on.
type described interface {
	describe(ctx context.Context) evidence.Machine
}

// order is what a machine is to be.
type order struct {
	Name  string // of the machine, where it is made and not chosen
	Dir   string // for its files, private to the stage's attempt
	Image *registry.Image
	Seed  seed.Seed
	Job   *pipeline.Job
	// Updates: the machine will be told to run another image, which one that
	// starts from the network cannot do by itself.
	Updates bool
}

// newPlace reads where machines come from. bad reports a wrong parameter.
func newPlace(env Env, w *machineWith, bad func(key, format string, args ...any) error) (place, error) {
	switch w.Machine {
	case "", "libvirt":
		w.Machine = "libvirt"
		return newLibvirtPlace(env, w, bad)
	case "metal":
		return newMetalPlace(env, w, bad)
	}
	return nil, bad("machine", "with.machine %q: expected libvirt or metal", w.Machine)
}

// instanceName names one installation of a machine: it is never used twice in
// a store.
func instanceName(img *registry.Image, j *pipeline.Job) string {
	return fmt.Sprintf("%s-%s-%s-%d", img.Name, j.Run, j.Stage, j.Attempt)
}
