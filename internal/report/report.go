// Package report writes a build's report: one HTML page for people, with the
// steps on a time line, tree maps of where the image's bytes are, packages,
// outputs and warnings.
//
// The page needs nothing else: no script, no font, no picture from elsewhere,
// and its content security policy forbids them. All geometry is in SVG
// attributes, so that the policy can name the one style sheet by its digest.
// Names in it come from images and hooks, which may be hostile; html/template
// escapes them.
//
// A report is a build's diary: it holds times, and differs from build to build
// where outputs do not. The same [Build] gives the same bytes.
package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/filelist"
)

// Build is what a report is about. Everything but Name may be empty; a section
// without content is left out.
type Build struct {
	Name     string
	Version  string
	Release  string // code name of the distribution
	Arch     string
	Failed   string        // why the build failed, one line; empty means it did not
	Started  time.Time     // shown in UTC
	Took     time.Duration // wall time
	CPU      time.Duration // of all processes; 0 means unknown
	Elements []string
	Outputs  []Output
	Steps    []Step // in any order; the page has them by Start
	Packages []Package
	Files    []filelist.File // of the image, for the tree maps
	Warnings []string        // one line each
}

// Output is a file that the build wrote.
type Output struct {
	Format string
	Path   string
	Size   int64 // bytes
	Data   int64 // bytes that are not holes; 0 means Size
	SHA256 string
}

// Package is a package in the image.
type Package struct{ Name, Version, Arch string }

// Step is one piece of work.
type Step struct {
	Name    string
	Phase   string        // "install.d"; may be empty
	Element string        // whose hook it is; may be empty
	Start   time.Duration // since the build started
	Took    time.Duration
	CPU     time.Duration // 0 means unknown
	Cached  bool          // taken from the cache, not run
	Failed  bool
	Why     string // why it ran, or what else there is to say; one line
}

//go:embed report.html
var page string

//go:embed report.css
var style string

var templates = template.Must(template.New("report").Parse(page))

// view is a Build as the page shows it.
type view struct {
	*Build
	Style      template.CSS
	StyleHash  string // base64 of the style sheet's SHA-256
	When       string
	Facts      []fact
	Rows       []stepRow
	Ticks      []tick
	Phases     []phaseRow
	HasCPU     bool
	Outputs    []outputRow
	ByDir      *treeMap
	ByPackage  *treeMap
	PackageSum []packageRow
}

// fact is one of the figures at the top.
type fact struct{ Value, Name string }

// Write writes the page.
func Write(w io.Writer, b Build) error {
	sum := sha256.Sum256([]byte(style))
	v := view{Build: &b, Style: template.CSS(style), StyleHash: base64.StdEncoding.EncodeToString(sum[:])}
	if !b.Started.IsZero() {
		v.When = b.Started.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	v.HasCPU = slices.ContainsFunc(b.Steps, func(s Step) bool { return s.CPU > 0 })
	v.Rows, v.Ticks = timeline(b.Steps, b.Took)
	v.Phases = phases(b.Steps)
	for _, o := range b.Outputs {
		v.Outputs = append(v.Outputs, outputRow{o, bytesText(o.Size), bytesText(cmp.Or(o.Data, o.Size))})
	}
	sizes := packageSizes(b.Files)
	for _, p := range b.Packages {
		v.PackageSum = append(v.PackageSum, packageRow{p, bytesText(sizes[p.Name])})
	}
	if len(b.Files) > 0 {
		v.ByDir, v.ByPackage = directoryMap(b.Files), packageMap(sizes)
	}
	v.Facts = v.facts()
	var page bytes.Buffer
	if err := templates.Execute(&page, &v); err != nil {
		return err
	}
	_, err := page.WriteTo(w)
	return err
}

type outputRow struct {
	Output
	SizeText, DataText string
}

type packageRow struct {
	Package
	SizeText string
}

func (v *view) facts() []fact {
	var out []fact
	add := func(ok bool, value, name string) {
		if ok {
			out = append(out, fact{value, name})
		}
	}
	add(v.Took > 0, seconds(v.Took), "wall time")
	add(v.CPU > 0, seconds(v.CPU), "CPU time")
	cached := 0
	for _, s := range v.Steps {
		if s.Cached {
			cached++
		}
	}
	add(len(v.Steps) > 0, fmt.Sprintf("%d of %d", cached, len(v.Steps)), "steps from the cache")
	var size int64
	for _, f := range v.Files {
		if f.Link == "" {
			size += f.Size
		}
	}
	add(len(v.Files) > 0, bytesText(size), fmt.Sprintf("in %d files", len(v.Files)))
	add(len(v.Packages) > 0, fmt.Sprint(len(v.Packages)), "packages")
	add(len(v.Elements) > 0, fmt.Sprint(len(v.Elements)), "elements")
	return out
}

// stepRow is a step with its bar, in thousandths of the time line.
type stepRow struct {
	Step
	Kind            string // class of the bar: ran, cached or failed
	X, Width        string
	CPUWidth        string // of the part that was CPU time; empty where that is unknown
	TookText, CPUed string
	Title           string
}

// tick is a mark of the time line.
type tick struct{ X, Text string }

const lineWidth = 1000

func timeline(steps []Step, took time.Duration) ([]stepRow, []tick) {
	steps = slices.Clone(steps)
	slices.SortStableFunc(steps, func(a, b Step) int { return cmp.Compare(a.Start, b.Start) })
	total := max(took, time.Millisecond)
	for _, s := range steps {
		total = max(total, s.Start+s.Took)
	}
	at := func(d time.Duration) float64 { return float64(d) / float64(total) * lineWidth }
	var rows []stepRow
	for _, s := range steps {
		r := stepRow{Step: s, Kind: "ran", X: coordinate(at(s.Start)), TookText: seconds(s.Took)}
		r.Width = coordinate(max(at(s.Took), 2)) // something to see
		switch {
		case s.Failed:
			r.Kind = "failed"
		case s.Cached:
			r.Kind = "cached"
		}
		if s.CPU > 0 {
			r.CPUed, r.CPUWidth = seconds(s.CPU), coordinate(at(min(s.CPU, s.Took)))
		}
		r.Title = fmt.Sprintf("%s: %s, from %s on, took %s", s.Name, r.Kind, seconds(s.Start), r.TookText)
		rows = append(rows, r)
	}
	var ticks []tick
	step := tickStep(total)
	for n := range total/step + 1 { // at most nine, however long it took
		ticks = append(ticks, tick{coordinate(at(n * step)), tickText(n * step)})
	}
	return rows, ticks
}

// tickStep is a round time of which four to nine fit into the whole.
func tickStep(total time.Duration) time.Duration {
	for unit := time.Millisecond; ; unit *= 10 {
		for _, n := range []time.Duration{1, 2, 5} {
			if total/(n*unit) < 9 {
				return n * unit
			}
		}
	}
}

func tickText(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }

// phaseRow sums the steps of a phase that ran.
type phaseRow struct {
	Phase, Took, CPU, Width string
	Steps, Cached           int
	took, cpu               time.Duration
}

func phases(steps []Step) []phaseRow {
	var out []phaseRow
	for _, s := range steps {
		i := slices.IndexFunc(out, func(p phaseRow) bool { return p.Phase == s.Phase })
		if i < 0 {
			i, out = len(out), append(out, phaseRow{Phase: s.Phase})
		}
		p := &out[i]
		p.Steps++
		if s.Cached {
			p.Cached++
		}
		p.took, p.cpu = p.took+s.Took, p.cpu+s.CPU
	}
	longest := time.Duration(1)
	for _, p := range out {
		longest = max(longest, p.took)
	}
	for i, p := range out {
		out[i].Took, out[i].Width = seconds(p.took), coordinate(float64(p.took)/float64(longest)*lineWidth)
		if p.cpu > 0 {
			out[i].CPU = seconds(p.cpu)
		}
	}
	slices.SortStableFunc(out, func(a, b phaseRow) int { return cmp.Compare(b.took, a.took) })
	return out
}

// coordinate is a number for an SVG attribute.
func coordinate(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.1f", f), "0"), ".")
}

// seconds says a time with as many digits as it deserves.
func seconds(d time.Duration) string {
	switch {
	case d >= 10*time.Minute:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d >= time.Second/10:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d == 0:
		return "0 s"
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}

// bytesText says a number of bytes in binary units.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d B", n)
}
