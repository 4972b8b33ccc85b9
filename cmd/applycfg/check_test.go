package main

import (
	"context"
	"errors"
	"testing"
)

// What check and keys compute does not keep them from ending.
func TestUntil(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	never := make(chan int)
	defer close(never)
	_, err := until(ctx, func() (int, error) {
		cancel()
		return <-never, nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	bad := errors.New("bad")
	if n, err := until(t.Context(), func() (int, error) { return 1, bad }); n != 1 || err != bad {
		t.Errorf("%d, %v", n, err)
	}
}
