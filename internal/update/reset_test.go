package update

import (
	"os"
	"path/filepath"
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
