package imagebuild

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/filelist"
	"goldsmith/internal/report"
	"goldsmith/internal/sbom"
	"goldsmith/internal/tree"
)

// timeline is what the build's report says of its steps.
type timeline struct {
	started time.Time
	steps   []report.Step
	cpu     time.Duration // of all processes that ended before the last step
}

func newTimeline() timeline { return timeline{started: time.Now(), cpu: childrenCPU()} }

// ran notes a step that has just ended.
func (t *timeline) ran(s *step, took time.Duration, why string, failed bool) {
	r := t.step(s)
	cpu := childrenCPU()
	r.Start, r.Took, r.CPU, r.Why, r.Failed = time.Since(t.started)-took, took, cpu-t.cpu, why, failed
	t.cpu = cpu
	t.steps = append(t.steps, r)
}

// took notes a step whose result was taken.
func (t *timeline) took(s *step) {
	r := t.step(s)
	r.Start, r.Cached = time.Since(t.started), true
	t.steps = append(t.steps, r)
}

func (t *timeline) step(s *step) report.Step {
	phase, _, isHook := strings.Cut(s.Name, "/")
	if !isHook {
		phase = ""
	}
	return report.Step{Name: s.Name, Phase: phase, Element: s.Element}
}

// childrenCPU is the time that all processes took which this one waited for.
func childrenCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// describe writes what there is to say of an image beside its outputs: bills of
// materials and the list of its files. They depend on the image alone.
func (b *build) describe(ctx context.Context, files *pending, t *tree.Tree, res *Result) error {
	bill, err := sbom.Read(t)
	if err != nil {
		return err
	}
	bill.Name, bill.Version, bill.Release, bill.Arch = b.def.Name, b.def.Version, b.def.Release, b.def.Arch
	bill.Elements, bill.Time = elementNames(b.elements), b.epoch
	known, err := b.cache.sums(b.def.Name + " " + b.def.Arch)
	if err != nil {
		return err
	}
	if b.files, err = filelist.List(ctx, t, known); err != nil {
		return err
	}
	if err := b.cache.keepSums(b.def.Name+" "+b.def.Arch, t, b.files); err != nil {
		return err
	}
	for _, d := range []struct {
		ending string
		write  func(io.Writer) error
	}{
		{"spdx.json", func(w io.Writer) error { return sbom.WriteSPDX(w, bill) }},
		{"cdx.json", func(w io.Writer) error { return sbom.WriteCycloneDX(w, bill) }},
		{"files", func(w io.Writer) error { return filelist.Write(w, b.files) }},
	} {
		path := filepath.Join(b.opts.Out, b.def.Name+"."+d.ending)
		f, err := files.create(path)
		if err != nil {
			return err
		}
		if err := d.write(f); err != nil {
			return explainFull(path, err)
		}
		res.saved = append(res.saved, path)
	}
	return nil
}

// report is the build's diary as it is now.
func (b *build) report() report.Build {
	t := &b.timeline
	return report.Build{
		Name: b.def.Name, Version: b.def.Version, Release: b.def.Release, Arch: b.def.Arch,
		Started: t.started, Took: time.Since(t.started), CPU: childrenCPU() + ownCPU(), Elements: elementNames(b.elements),
		Steps: t.steps, Files: b.files,
	}
}

// ownCPU is the time that this process took.
func ownCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportPath is where the report goes.
func (b *build) reportPath() string { return filepath.Join(b.opts.Out, b.def.Name+".report.html") }

// reportFailure writes the report of a build that failed. What another build
// left there goes first: it must not be taken for this one's.
func (b *build) reportFailure(failed error) error {
	r := b.report()
	r.Failed, _, _ = strings.Cut(failed.Error(), "\n")
	var page strings.Builder
	if err := report.Write(&page, r); err != nil {
		return err
	}
	err := atomicfile.Write(b.reportPath(), []byte(page.String()), 0o644)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the directory of the outputs is gone
	}
	return explainFull(b.reportPath(), err)
}

// writeReport writes the report of a build that did not.
func (b *build) writeReport(files *pending, m *Manifest) error {
	r := b.report()
	for _, o := range m.Outputs {
		r.Outputs = append(r.Outputs, report.Output{Format: o.Format, Path: o.Path, Size: o.Size, Data: o.Data, SHA256: o.SHA256})
	}
	for _, p := range m.Packages {
		r.Packages = append(r.Packages, report.Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
	}
	f, err := files.create(b.reportPath())
	if err != nil {
		return err
	}
	return explainFull(b.reportPath(), report.Write(f, r))
}
