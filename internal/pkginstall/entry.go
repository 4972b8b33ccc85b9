package pkginstall

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/yaml11"
)

// reader reads one package's value in a file.
type reader struct {
	*squasher
	element, path, pkg string
}

func (r *reader) fault(line int, what, hint string) error {
	return command.BadInput(fmt.Errorf("%s:%d: %s: %s", r.path, line, r.pkg, what), hint)
}

func (r *reader) warn(line int, format string, args ...any) {
	r.warnings = append(r.warnings, fmt.Sprintf("%s:%d: %s: %s", r.path, line, r.pkg, fmt.Sprintf(format, args...)))
}

// value reads what stands behind a package's name.
func (r *reader) value(n *yaml11.Node) error {
	if empty(n) || n.Kind == yaml11.List && len(n.Items) == 0 {
		return r.options(&yaml11.Node{Kind: yaml11.Mapping, Line: n.Line})
	}
	if n.Kind != yaml11.List {
		return r.options(n)
	}
	for _, item := range n.Items {
		if err := r.options(item); err != nil {
			return err
		}
	}
	return nil
}

func empty(n *yaml11.Node) bool {
	return n == nil || n.Kind == yaml11.Null || n.Kind == yaml11.Text && n.Text == ""
}

// known are the options that have an effect.
var known = []string{"phase", "installtype", "arch", "not-arch", "dib_python_version", "when", "uninstall", "build-only"}

// options reads one set of them and, when it holds here, notes who asks for
// the package.
func (r *reader) options(n *yaml11.Node) error {
	if n.Kind != yaml11.Mapping {
		return r.fault(n.Line, "expected options, found "+n.Kind.String(),
			"a package has nothing behind its name, options such as phase and arch, or a list of such options")
	}
	for _, p := range n.Pairs {
		if !slices.Contains(known, p.Key.Text) {
			r.warn(p.Key.Line, "option %q has no effect; the options are %s", p.Key.Text, strings.Join(known, ", "))
		}
	}
	phase, err := r.word(n, "phase")
	if err != nil {
		return err
	}
	if phase == "" {
		phase = DefaultPhase
	}
	if !slices.Contains(Phases, phase) {
		r.warn(n.Get("phase").Line, "nothing is installed in phase %q; the phases are %s", phase, strings.Join(Phases, ", "))
	}
	leave, err := r.truth(n, "uninstall")
	if err != nil {
		return err
	}
	build, err := r.truth(n, "build-only")
	if err != nil {
		return err
	}
	holds, err := r.holds(n)
	if err != nil || !holds {
		return err
	}
	a := r.ask(phase, r.pkg)
	switch {
	case build:
		a.build[r.element] = true
	case leave:
		a.leave[r.element] = true
	default:
		a.stay[r.element] = true
	}
	return nil
}

// holds says whether the entry counts for this element, architecture, Python
// and environment. As in the original, a when option is not looked at where
// the others already say no.
func (r *reader) holds(n *yaml11.Node) (bool, error) {
	want, err := r.word(n, "installtype")
	if err != nil || want != "" && want != r.env.installType(r.element) && !r.checking {
		return false, err
	}
	if ok, err := r.forArch(n); err != nil || !ok && !r.checking {
		return false, err
	}
	want, err = r.word(n, "dib_python_version")
	if err != nil || want != "" && want != r.env["DIB_PYTHON_VERSION"] && !r.checking {
		return false, err
	}
	return r.when(n.Get("when"))
}

// word is an option's value as text; one that is not there, or nothing, is
// empty.
func (r *reader) word(n *yaml11.Node, option string) (string, error) {
	v := n.Get(option)
	switch {
	case empty(v):
		return "", nil
	case v.Kind >= yaml11.List:
		return "", r.fault(v.Line, option+": expected one word, found "+v.Kind.String(), "")
	}
	return v.String(), nil
}

// truth is the value of uninstall and build-only. Naming the option is enough;
// the original does not look at the value at all, so that "uninstall: False"
// uninstalls, which nobody means.
func (r *reader) truth(n *yaml11.Node, option string) (bool, error) {
	v := n.Get(option)
	switch {
	case v == nil:
		return false, nil
	case empty(v):
		return true, nil
	case v.Kind == yaml11.Bool:
		return v.Bool, nil
	case v.Kind == yaml11.Int:
		return v.Int.Sign() != 0, nil
	}
	switch strings.ToLower(v.Text) { // quoted, or of JSON
	case "true", "yes", "on", "1":
		return true, nil
	case "false", "no", "off", "0":
		return false, nil
	}
	return false, r.fault(v.Line, option+": expected true or false, found "+v.Kind.String(), "")
}

func (r *reader) forArch(n *yaml11.Node) (bool, error) {
	in, err := r.word(n, "arch")
	if err != nil {
		return false, err
	}
	notIn, err := r.word(n, "not-arch")
	switch {
	case err != nil:
		return false, err
	case in == "" && notIn == "":
		return true, nil
	case in != "" && notIn != "":
		return false, r.fault(n.Line, "has both arch and not-arch", "keep one of them")
	case r.env["ARCH"] == "":
		return false, r.fault(n.Line, "depends on the architecture, and ARCH is not set", "")
	case in != "":
		return listed(in, r.env["ARCH"]), nil
	}
	return !listed(notIn, r.env["ARCH"]), nil
}

// listed looks for a word in a list with commas. Blanks around the commas do
// not count; the original takes them for part of the words.
func listed(list, word string) bool {
	for f := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(f) == word {
			return true
		}
	}
	return false
}

var condition = regexp.MustCompile(`^(\w+)\s*(=|!=)\s*(.*)`)

// when tells whether all conditions hold. Each is looked at, also when an
// earlier one failed: an unset variable is always an error.
func (r *reader) when(n *yaml11.Node) (bool, error) {
	if n == nil || n.Kind == yaml11.Null {
		return true, nil
	}
	all := []*yaml11.Node{n}
	if n.Kind == yaml11.List {
		all = n.Items
	}
	holds := true
	for _, c := range all {
		m := condition.FindStringSubmatch(c.Text)
		if c.Kind != yaml11.Text || m == nil {
			return false, r.fault(c.Line, fmt.Sprintf("when: %q is no condition", c.Text), "write VARIABLE = value or VARIABLE != value")
		}
		name, op, want := m[1], m[2], m[3]
		if strings.HasPrefix(want, "=") {
			r.warn(c.Line, "when: compares %s with %q; is one \"=\" too many?", name, want)
		}
		value, ok := r.env[name]
		if !ok && !r.checking {
			return false, r.fault(c.Line, fmt.Sprintf("when: variable %s is not set", name),
				"set it for the build, or give it a default in the element's environment.d")
		}
		holds = holds && (value == want) == (op == "=")
	}
	return holds, nil
}
