package update

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// Two at a time: the second waits, and then says that it is busy.
func TestBusy(t *testing.T) {
	defer func(d time.Duration) { patience = d }(patience)
	patience = 300 * time.Millisecond
	b := newBench(t, false)
	b.must(os.MkdirAll(b.State, 0o700))
	lock, err := filelock.Try(filepath.Join(b.State, "lock"), filelock.Exclusive)
	b.must(err)
	defer lock.Close()
	if err := b.Install(t.Context(), b.image("2", 0), Options{}); command.Status(err) != command.StatusBusy {
		t.Errorf("beside another one: %v", err)
	}
}
