package update

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
)

func TestReset(t *testing.T) {
	b := newBench(t, false)
	request := filepath.Join(b.State, "factory-reset")
	v1, v2 := b.image("1", 0), b.image("2", 0)
	b.must(b.Install(t.Context(), v2, Options{}))
	if err := b.Reset(t.Context()); command.Status(err) != command.StatusUsage {
		t.Errorf("with an image that waits: %v", err)
	}
	b.start(v1, v2)
	if err := b.Reset(t.Context()); command.Status(err) != command.StatusUsage {
		t.Errorf("on trial: %v", err)
	}
	if _, err := os.Stat(request); err == nil {
		t.Error("refused, and asked for")
	}
	b.must(b.Good(t.Context()))
	b.must(b.Reset(t.Context()))
	if _, err := os.Stat(request); err != nil {
		t.Error(err)
	}
}

// A reset that waits for the next start would take what a return needs.
func TestResetBeforeInstall(t *testing.T) {
	ctx := t.Context()
	b := newBench(t, false)
	v1, v2, v3 := b.image("1", 0), b.image("2", 0), b.image("3", 0)
	proved(b, v1, v2)
	b.must(b.Reset(ctx))
	if err := b.Install(ctx, v3, Options{}); command.Status(err) != command.StatusUsage ||
		!strings.Contains(err.Error(), "a factory reset waits for the next start") {
		t.Errorf("install: %v", err)
	}
	if err := b.Rollback(ctx, nil); command.Status(err) != command.StatusUsage ||
		!strings.Contains(err.Error(), "a factory reset waits for the next start") {
		t.Errorf("rollback: %v", err)
	}
	if r := b.load(); r.Trial != nil || r.Slots["a"].State != Good {
		t.Errorf("%+v", r)
	}
}
