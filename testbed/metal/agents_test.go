package metal

import (
	"context"

	"goldsmith/internal/deploy"
)

var hardware = &deploy.Inventory{Arch: "amd64", CPU: deploy.CPU{Count: 2}, Memory: 1 << 30, Disks: []deploy.Disk{{Path: "/dev/vda", Size: 1 << 40}}}

// good is an agent that does what it is told.
func good(ctx context.Context, c *deploy.Client) error { return ends(ctx, c, deploy.Result{}) }

// bad is one that fails.
func bad(ctx context.Context, c *deploy.Client) error {
	return ends(ctx, c, deploy.Result{Step: "50-write", Error: "sda: I/O error"})
}

func ends(ctx context.Context, c *deploy.Client, r deploy.Result) error {
	t, err := c.Task(ctx, "")
	if err != nil {
		return err
	}
	r.Task = t.ID
	if err := c.Inventory(ctx, hardware); err != nil {
		return err
	}
	return c.Result(ctx, &r)
}

// hangs is one that calls once, and then says nothing more.
func hangs(ctx context.Context, c *deploy.Client) error {
	if err := c.Inventory(ctx, hardware); err != nil {
		return err
	}
	<-ctx.Done()
	return ctx.Err()
}
