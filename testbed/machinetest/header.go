// Package machinetest runs tests on machines: executables with one line in
// their first lines that says what they are and need,
//
//	## goldsmith: {tags: [storage], timeout: 2m, reboots: true}
//
// as kola's external tests have. A test runs on the machine itself, brought
// there by any [testbed.Shell], so that it needs no network, or on imgpipe's
// host beside the machine. While it runs and after it the machine's console is
// read for what is always bad ([Scan]): a test that passed can still fail.
//
// A failure has a class, with what speaks for it ([Classify]): people look first
// where the fault is, and only what is the testbed's fault is tried again
// without being asked.
package machinetest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/command"
)

// Test is one executable and what its header says. The zero value of what may
// be left out is what a test without a header has.
type Test struct {
	Path    string `yaml:"-"`
	Element string `yaml:"-"` // where it comes from
	Name    string // empty: the file's name
	Tags    []string
	// Platforms are the drivers that it can run on: libvirt, qemu, metal. Nil
	// means all of them.
	Platforms []string
	// On is where it runs: "machine", or "host", which is imgpipe's, in the
	// network from which the machine is reached. Empty means host.
	On string
	// Timeout is a duration; empty means DefaultTimeout. Each part between two
	// reboots has as long.
	Timeout string
	// Reboots: it may restart the machine, by "goldsmith-reboot MARK", and is
	// then run again with the mark in GOLDSMITH_REBOOT_MARK.
	Reboots bool
	// Destructive: the machine is of no use afterwards.
	Destructive bool
	// Shares: it leaves the machine as it found it, and may run after others
	// and before others. Nil means that it does unless it is destructive.
	Shares *bool
	// Console are the names of patterns that this test is to bring about.
	Console []string
}

// DefaultTimeout of a test.
const DefaultTimeout = 5 * time.Minute

// Where tests run.
const (
	OnHost    = "host"
	OnMachine = "machine"
)

const headerMark = "## goldsmith:"

// Limits of a test's header.
const (
	headerLines = 20
	headerSize  = 4 << 10
)

var nameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// platforms that a header may name.
var platforms = []string{"libvirt", "qemu", "metal"}

// Read returns the test in a file. Errors name the file and the line.
func Read(path string) (*Test, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	line, text, err := header(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t := &Test{}
	bad := func(format string, args ...any) error {
		return command.BadInput(fmt.Errorf("%s:%d: %s", path, line, fmt.Sprintf(format, args...)),
			"docs/formats.md, Tests on machines, says what a header may have")
	}
	if text != "" {
		dec := yaml.NewDecoder(strings.NewReader(text))
		dec.KnownFields(true)
		if err := dec.Decode(t); err != nil {
			return nil, bad("header: %s", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", " "), "yaml: "))
		}
	}
	t.Path = path
	if t.Name == "" {
		t.Name = filepath.Base(path)
	}
	if t.On == "" {
		t.On = OnHost
	}
	if err := t.check(); err != nil {
		return nil, bad("%v", err)
	}
	return t, nil
}

// header finds the header's line, which is the only one of its kind.
func header(r io.Reader) (line int, text string, err error) {
	s := bufio.NewScanner(io.LimitReader(r, headerSize))
	s.Buffer(nil, headerSize+1)
	for n := 1; n <= headerLines && s.Scan(); n++ {
		rest, ok := strings.CutPrefix(s.Text(), headerMark)
		switch {
		case !ok:
		case text != "":
			return n, "", fmt.Errorf("line %d: a second header", n)
		case strings.TrimSpace(rest) == "":
			return n, "", fmt.Errorf("line %d: the header is empty; expected {…}", n)
		default:
			line, text = n, rest
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) { // a program, not a script
		return line, text, nil
	}
	return line, text, s.Err()
}

// IsTag tells whether a test may have that tag.
func IsTag(s string) bool { return nameRE.MatchString(s) }

func (t *Test) check() error {
	switch {
	case slices.ContainsFunc(t.Tags, func(s string) bool { return !IsTag(s) }):
		return fmt.Errorf("tags %q: letters, digits, '.', '_' and '-'", t.Tags)
	case !nameRE.MatchString(t.Name):
		return fmt.Errorf("name %q: letters, digits, '.', '_' and '-'", t.Name)
	case t.On != OnHost && t.On != OnMachine:
		return fmt.Errorf("on %q: expected %s or %s", t.On, OnHost, OnMachine)
	case t.Reboots && t.On != OnMachine:
		return errors.New("reboots: only a test on the machine is run again after one")
	case t.Destructive && t.Shares != nil && *t.Shares:
		return errors.New("shares and destructive: a machine that is of no use afterwards is not shared")
	}
	if d, err := time.ParseDuration(t.Timeout); t.Timeout != "" && (err != nil || d <= 0) {
		return fmt.Errorf("timeout %q: expected a duration such as 90s or 10m", t.Timeout)
	}
	for _, p := range t.Platforms {
		if !slices.Contains(platforms, p) {
			return fmt.Errorf("platforms: %q: expected %s", p, strings.Join(platforms, ", "))
		}
	}
	for _, name := range t.Console {
		if !slices.ContainsFunc(patterns, func(p pattern) bool { return p.name == name }) {
			return fmt.Errorf("console: there is no pattern %q", name)
		}
	}
	return nil
}

func (t *Test) timeout() time.Duration {
	if d, err := time.ParseDuration(t.Timeout); err == nil {
		return d
	}
	return DefaultTimeout
}

// Alone tells whether the test has a machine of its own, which nobody uses
// before it or after it.
func (t *Test) Alone() bool { return t.Destructive || t.Shares != nil && !*t.Shares }

// Label names a test to people: ELEMENT/NAME.
func (t *Test) Label() string {
	if t.Element == "" {
		return t.Name
	}
	return t.Element + "/" + t.Name
}

// Selection says which tests are to run.
type Selection struct {
	Platform string   // the machine's driver; empty: whatever
	Tags     []string // one of them; nil: all tests
	Without  []string // none of them
}

// Select returns the tests to run, in their order, and says of each other one
// why it is not.
func (s Selection) Select(tests []*Test) (chosen []*Test, skipped map[*Test]string) {
	skipped = map[*Test]string{}
	in := func(tags []string) func(string) bool { return func(t string) bool { return slices.Contains(tags, t) } }
	for _, t := range tests {
		switch {
		case s.Platform != "" && t.Platforms != nil && !slices.Contains(t.Platforms, s.Platform):
			skipped[t] = "not for " + s.Platform
		case s.Tags != nil && !slices.ContainsFunc(t.Tags, in(s.Tags)):
			skipped[t] = "has none of the tags " + strings.Join(s.Tags, ", ")
		case slices.ContainsFunc(t.Tags, in(s.Without)):
			skipped[t] = "has a tag that is left out"
		default:
			chosen = append(chosen, t)
		}
	}
	return chosen, skipped
}

// Groups puts tests together that run on one machine: all that share come on
// the first, each other one has a machine of its own. Order is kept.
func Groups(tests []*Test) [][]*Test {
	var shared []*Test
	var groups [][]*Test
	for _, t := range tests {
		if t.Alone() {
			groups = append(groups, []*Test{t})
		} else {
			shared = append(shared, t)
		}
	}
	if shared != nil {
		groups = append([][]*Test{shared}, groups...)
	}
	return groups
}
