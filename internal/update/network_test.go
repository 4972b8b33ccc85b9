package update

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

// A machine that starts from the network is well without an EFI partition, and
// takes no image that only a boot loader of its disk would start.
func TestFromNetwork(t *testing.T) {
	b := newBench(t, false)
	before, err := os.ReadFile(b.Boot.Disk)
	b.must(err)
	b.Boot.From = FromNetwork
	b.ESP = func() (string, func() error, error) { return "", nil, errors.New("the EFI partition is wrecked") }
	ctx := context.Background()
	if found, err := b.Check(ctx); err != nil || found != (Finding{}) {
		t.Errorf("check: %+v, %v", found, err)
	}
	if s, err := b.Status(ctx); err != nil || s.Trial || s.Waiting || !strings.Contains(s.Loader, "network") || s.Record.Slots["a"].Version != "1" {
		t.Errorf("status: %+v, %v", s, err)
	}
	if found, err := b.InspectBoot(ctx); err != nil || len(found.Wrong) > 0 || len(found.Unknown) != 1 {
		t.Errorf("boot files: %+v, %v", found, err)
	}
	b.must(b.Good(ctx))
	if err := b.Install(ctx, b.image("1", 0), Options{}); !errors.Is(err, ErrRuns) {
		t.Errorf("the image that runs: %v", err)
	}
	err = b.Install(ctx, b.image("2", 0), Options{})
	if command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), "starts from the network") {
		t.Errorf("another image: %v", err)
	}
	if err := b.Rollback(ctx, nil); err == nil {
		t.Error("it goes back")
	}
	after, err := os.ReadFile(b.Boot.Disk)
	b.must(err)
	if string(after) != string(before) {
		t.Error("the disk was written")
	}
}

// What an update began while the disk still started the machine is over.
func TestFromNetworkWithTrial(t *testing.T) {
	b := newBench(t, false)
	b.must(b.Install(context.Background(), b.image("2", 0), Options{}))
	b.Boot.From, b.BootID = FromNetwork, "boot-1"
	if found, err := b.Check(context.Background()); err != nil || found.Trial || found.Restart || found.Returned != nil {
		t.Errorf("check: %+v, %v", found, err)
	}
	if r, err := b.record(); err != nil || r.Trial != nil || r.Good != "a" || r.Slots["b"].State != Empty {
		t.Errorf("record: %+v, %v", r, err)
	}
}
