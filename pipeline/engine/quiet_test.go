package engine

import (
	"log/slog"
	"strings"
	"sync"
	"testing"

	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
)

// A queue that ends right after its start says nothing.
func TestEndsQuietly(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var log logged
		e := New(db)
		e.Log = slog.New(slog.NewTextHandler(&log, nil))
		for range 10 {
			q, err := StartDispatcher(t.Context(), e)
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		}
		if said := log.String(); said != "" {
			t.Errorf("it says %s", said)
		}
	})
}

// logged is what several goroutines write.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
