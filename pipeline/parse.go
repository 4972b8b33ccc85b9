package pipeline

import (
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/yamlfile"
)

// Load reads and checks a pipeline file whose inputs all have defaults. steps
// are the names that "uses" may have. The error names the file and the line of
// everything that is wrong (yamlfile.Problems).
func Load(file string, steps []string) (*Pipeline, error) { return LoadWith(file, nil, steps) }

// LoadWith is [Load] for a file that is given values of its inputs.
func LoadWith(file string, inputs map[string]string, steps []string) (*Pipeline, error) {
	content, err := yamlfile.Content(file)
	if err != nil {
		return nil, err
	}
	return Parse(file, content, inputs, steps)
}

// Parse is [LoadWith] for content that is already in memory; name is what
// errors call it. It depends on nothing but its arguments.
func Parse(name string, content []byte, inputs map[string]string, steps []string) (*Pipeline, error) {
	r := &reader{p: &Pipeline{content: content}, steps: steps, inputs: map[string]string{}, left: maxExpanded}
	f, err := yamlfile.ParsePartly(name, content, &r.doc)
	if f == nil {
		return nil, err
	}
	r.p.file = f
	if err != nil {
		r.errs = append(r.errs, err)
		for _, p := range yamlfile.Of(err) {
			r.lines = append(r.lines, p.Line)
		}
	}
	r.takeInputs(inputs)
	r.head()
	if len(r.doc.Stages) <= maxStages {
		r.stages()
		r.link()
	}
	r.p.Groups, r.p.Channels = r.doc.Groups, r.doc.Channels
	for _, err := range r.p.checkChannels() {
		r.add(err)
	}
	if err := yamlfile.Join(r.errs...); err != nil {
		return nil, err
	}
	return r.p, nil
}

// Declared returns the inputs that a file declares, also where it is wrong
// otherwise: what a run of it can be given.
func Declared(name string, content []byte) (map[string]Input, error) {
	var d document
	if f, err := yamlfile.ParsePartly(name, content, &d); f == nil {
		return nil, err
	}
	return d.Inputs, nil
}

// reader makes a pipeline of a file, and collects what is wrong with that.
type reader struct {
	doc    document
	p      *Pipeline
	steps  []string
	inputs map[string]string
	cells  [][]cell       // of each stage of the file
	index  map[string]int // of the stages made, by name
	names  [][]string     // of the stages made, of each stage of the file
	left   int            // what may still be made (maxExpanded)

	errs  []error
	lines []int // whose values could not be read: there is no more to say of them
	quiet bool  // what would be said has been, of another cell of the stage
}

// full tells that no more is to be said.
func (r *reader) full() bool { return r.quiet || len(r.errs) >= maxErrors }

func (r *reader) add(err error) {
	for _, p := range yamlfile.Of(err) {
		if slices.Contains(r.lines, p.Line) {
			return
		}
	}
	if !r.full() {
		r.errs = append(r.errs, err)
	}
}

// maxErrors bounds the work for a file of which everything is wrong.
const maxErrors = 1000

// fail reports a wrong value by its place in the file.
func (r *reader) fail(at []any, format string, args ...any) {
	if !r.full() {
		r.add(r.p.file.Errorf(at, format, args...))
	}
}

func (r *reader) failLine(line int, format string, args ...any) {
	if !r.full() {
		r.add(r.p.file.ErrorAt(line, format, args...))
	}
}

// head takes what is not about one stage.
func (r *reader) head() {
	d, p := &r.doc, r.p
	if d.APIVersion != APIVersion {
		r.fail([]any{"apiVersion"}, "apiVersion %q: this program reads %q", d.APIVersion, APIVersion)
	}
	if !nameRE.MatchString(d.Name) {
		r.fail([]any{"name"}, "name %q: lower case letters, digits and '-' only", d.Name)
	}
	switch n := len(d.Stages); {
	case n == 0:
		r.fail([]any{"stages"}, "no stages")
	case n > maxStages:
		r.fail([]any{"stages", maxStages}, "%d stages: at most %d", n, maxStages)
	}
	p.APIVersion, p.Name, p.Inputs = d.APIVersion, d.Name, r.inputs
	var err error
	if p.Timeout, err = duration(d.Timeout, maxTimeout); err != nil {
		r.fail([]any{"timeout"}, "timeout %v", err)
	}
	if p.Group, err = r.scope(cell{}).text(d.Concurrency.Group); err != nil {
		r.fail([]any{"concurrency", "group"}, "group: %v", err)
	}
	p.Supersede = d.Concurrency.Supersede
	if p.Supersede && d.Concurrency.Group == "" {
		r.fail([]any{"concurrency"}, "supersede: name the group of runs of which a newer one supersedes the older")
	}
	r.checkOptions([]any{"defaults"}, "defaults", d.Defaults)
}

// scope is what references in a cell's stage can name.
func (r *reader) scope(c cell) *scope {
	inputs := map[string]*yaml.Node{}
	for name, in := range r.doc.Inputs {
		// A value that was found wrong is reported once, not with each use.
		inputs[name] = in.node(r.inputs[name])
	}
	return &scope{inputs, c.values, &r.left}
}

// stages makes the stages, of a matrix a stage for each cell.
func (r *reader) stages() {
	base := []cell{{}}
	if r.doc.Matrix != nil {
		base = r.multiply(base, r.doc.Matrix, []any{"matrix"})
	}
	seen := map[string]bool{}
	for i, s := range r.doc.Stages {
		at := func(key string) []any { return []any{"stages", i, key} }
		switch {
		case !nameRE.MatchString(s.Name):
			r.fail(at("name"), "stage name %q: lower case letters, digits and '-' only", s.Name)
		case seen[s.Name]:
			r.fail(at("name"), "stage %s: there are two", s.Name)
		}
		if !slices.Contains(r.steps, s.Uses) {
			r.fail(at("uses"), "stage %s: uses %q: expected one of %s", s.Name, s.Uses, strings.Join(r.steps, ", "))
		}
		if !slices.Contains([]string{"", string(IfPassed), string(IfFailed), string(IfAlways)}, s.If) {
			r.fail(at("if"), "stage %s: if %q: expected passed, failed or always", s.Name, s.If)
		}
		r.checkOptions([]any{"stages", i}, "stage "+s.Name, s.options)
		seen[s.Name] = true
		r.cells = append(r.cells, r.expand(i, base))
	}
	r.checkNames()
}

// expand makes the stages of one template.
func (r *reader) expand(i int, base []cell) []cell {
	s, cells := r.doc.Stages[i], slices.Clone(base)
	at := []any{"stages", i}
	if m := s.Matrix; m != nil {
		if m.Axes.Kind == 0 && m.Exclude == nil && m.Include == nil {
			cells = []cell{{}}
		} else {
			cells = r.multiply(cells, m, append(at, "matrix"))
		}
	}
	if len(r.p.Stages)+len(cells) > maxStages {
		r.fail(at, "more than %d stages, matrices multiplied out", maxStages)
		return nil
	}
	before := len(r.errs)
	for _, c := range cells {
		r.p.Stages = append(r.p.Stages, r.stage(i, c, at))
		r.quiet = len(r.errs) > before
	}
	r.quiet = false
	return cells
}

// stage makes the stage of one cell.
func (r *reader) stage(i int, c cell, at []any) Stage {
	t := r.doc.Stages[i]
	s := Stage{Name: c.of(t.Name), Template: t.Name, Uses: t.Uses, If: Condition(t.If), Matrix: c.texts(), at: i}
	if s.If == "" {
		s.If = IfPassed
	}
	if len(s.Name) > 63 || len(c.axes) > 0 && !nameRE.MatchString(s.Name) {
		r.fail(append(slices.Clone(at), "name"), "stage name %s: at most 63 letters, digits and '-' with the matrix's values", s.Name)
	}
	sc := r.scope(c)
	r.put(&s, t.options, sc, at)
	if t.With.Kind != 0 {
		n, err := sc.node(&t.With, map[*yaml.Node]bool{})
		if m, ok := err.(misplaced); ok {
			r.failLine(m.line, "stage %s: %v", s.Name, m.error)
		}
		if n != nil {
			s.With = *n
		}
	}
	return s
}

// checkNames reports stages of one name: cells of different templates, or of
// values that differ in what names cannot show.
func (r *reader) checkNames() {
	of := map[string]Stage{}
	template := map[string]int{}
	for i, t := range r.doc.Stages {
		template[t.Name] = i
	}
	for _, s := range r.p.Stages {
		other, ok := of[s.Name]
		i, taken := template[s.Name]
		switch at := []any{"stages", s.at, "name"}; {
		case ok && other.Template != s.Template:
			r.fail(at, "stages %s and %s both have one called %s", other.Template, s.Template, s.Name)
		case ok && len(s.Matrix) > 0:
			r.fail(at, "stage %s: two cells of its matrix are called %s", s.Template, s.Name)
		case taken && i != s.at && len(s.Matrix) > 0:
			r.fail(at, "stage %s: a cell of its matrix is called %s, as another stage", s.Template, s.Name)
		}
		of[s.Name] = s
	}
}
