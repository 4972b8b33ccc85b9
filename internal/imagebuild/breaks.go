package imagebuild

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"goldsmith/internal/command"
	"goldsmith/internal/rootfs"
)

// breaks are the points at which a build stops for a shell, as
// diskimage-builder's variables break, break_cmd and break_outside_target ask
// for it.
type breaks struct {
	Points  []string // before-X, after-X and after-error
	Command string   // run by sh instead of bash; not at after-X
	Outside bool     // after-error outside the tree
}

// readBreaks takes the points out of an environment.
func readBreaks(env map[string]string) breaks {
	b := breaks{Command: env["break_cmd"], Outside: env["break_outside_target"] != ""}
	if env["break"] != "" {
		b.Points = strings.Split(env["break"], ",")
	}
	return b
}

// has tells whether the build stops before or after a phase, named without
// its ".d".
func (b breaks) has(name string) bool {
	return slices.Contains(b.Points, "before-"+name) || slices.Contains(b.Points, "after-"+name)
}

// at stops at a point.
func (b breaks) at(ctx context.Context, s *stage, p phase, point string) error {
	if !slices.Contains(b.Points, point) {
		return nil
	}
	cmd := b.Command
	if cmd == "" || strings.HasPrefix(point, "after-") {
		cmd = "bash"
	}
	return s.shell(ctx, p, p.inside, point, cmd)
}

// afterError stops after a hook that failed: in the phases of the tree, and
// where the disk is made, as the original does.
func (b breaks) afterError(ctx context.Context, s *stage, p phase) error {
	if !slices.Contains(b.Points, "after-error") || !p.inside && p != devicePhase || ctx.Err() != nil {
		return nil
	}
	cmd := b.Command
	if cmd == "" {
		cmd = "bash"
	}
	return s.shell(ctx, p, p.inside && !b.Outside, "after-error", cmd)
}

// shell runs a command with the phase's environment, on the terminal when
// there is one.
func (s *stage) shell(ctx context.Context, p phase, inside bool, point, cmd string) error {
	fmt.Fprintf(s.log, "Starting debug shell. Exit to resume building.\nAt stage %s\n", point)
	x := command.Exec{
		Args: []string{"sh", "-c", cmd}, Env: s.environment(p), Dir: s.Work,
		Stdout: s.log, Log: s.log, Sys: &syscall.SysProcAttr{},
	}
	if !s.NoInput {
		x.Stdin = os.Stdin
		defer command.LendTerminal(x.Sys)()
	}
	run := x.Run
	if inside {
		run = func(ctx context.Context) error { return s.chroot().Exec(ctx, x) }
	}
	if err := run(ctx); err != nil {
		return fmt.Errorf("%s: %w", point, err)
	}
	fmt.Fprintln(s.log, "Resuming")
	return nil
}

func (s *stage) chroot() rootfs.Chroot {
	return rootfs.Chroot{Root: s.Root, Hooks: s.Hooks, Devices: s.Devices}
}
