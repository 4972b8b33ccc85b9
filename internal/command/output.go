package command

import (
	"fmt"
	"io"
	"sync"
)

// Output is a writer that remembers its first error, for results that are
// printed in many places. Several goroutines may write to it.
type Output struct {
	W io.Writer

	mu  sync.Mutex // guards the field below
	err error
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, err := o.W.Write(p)
	if o.err == nil && err != nil {
		o.err = fmt.Errorf("standard output: %w", err)
	}
	return n, err
}

// Err is the first error.
func (o *Output) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}
