package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/evidence"
)

// Artifact says how long files of an attempt's directory are kept, counted from
// the end of its run.
type Artifact struct {
	Files  []string      // patterns; "*" is anything but "/", "**" anything
	Passed time.Duration // where the attempt passed; 0 not at all, negative for ever
	Failed time.Duration // where it did not
}

// Forever keeps files as long as there is a record of the run.
const Forever time.Duration = -1

// Keep is how long a file of an attempt is kept; a file that nothing is said of
// for ever.
func (s *Stage) Keep(file string, passed bool) time.Duration {
	for _, a := range s.Artifacts {
		if slices.ContainsFunc(a.Files, func(p string) bool { return glob(p).MatchString(file) }) {
			if passed {
				return a.Passed
			}
			return a.Failed
		}
	}
	return Forever
}

const (
	maxRetries = 10
	maxDelay   = 24 * time.Hour
	maxTimeout = 30 * 24 * time.Hour
)

// DefaultRetry is how often a stage is tried again that says nothing of it.
func DefaultRetry() map[evidence.Class]int { return map[evidence.Class]int{evidence.Infra: 1} }

var requireRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}(?:=[A-Za-z0-9][A-Za-z0-9._-]{0,62})?$`)

// classes are those of failures.
var classes = []evidence.Class{evidence.TestFault, evidence.ImageFault, evidence.Infra, evidence.Flake, evidence.Unknown}

// over is what a stage says, and where it says nothing the defaults.
func (o options) over(d options) options {
	o.Timeout = cmp.Or(o.Timeout, d.Timeout)
	both := maps.Clone(d.Retry)
	if both == nil {
		both = map[string]string{}
	}
	maps.Copy(both, o.Retry)
	o.Retry = both
	o.Requires = slices.Concat(d.Requires, o.Requires)
	if o.Artifacts == nil {
		o.Artifacts = d.Artifacts
	}
	if o.When == nil {
		o.When = d.When
	}
	return o
}

// checkOptions reports what is wrong with options whatever the cell is.
func (r *reader) checkOptions(at []any, who string, o options) {
	key := func(k ...any) []any { return append(slices.Clone(at), k...) }
	for _, k := range slices.Sorted(maps.Keys(o.Retry)) {
		text := o.Retry[k]
		if k == "delay" {
			if _, err := duration(text, maxDelay); err != nil || text == "" {
				r.fail(key("retry", k), "%s: delay %q: expected a duration such as 30s, at most %v", who, text, maxDelay)
			}
			continue
		}
		if !slices.Contains(classes, evidence.Class(k)) {
			r.fail(key("retry", k), "%s: retry %s: expected test, image, infra, flake, unknown or delay", who, k)
		} else if n, err := strconv.Atoi(text); err != nil || n < 0 || n > maxRetries {
			r.fail(key("retry", k), "%s: retry %s %q: expected 0 to %d", who, k, text, maxRetries)
		}
	}
	for i, a := range o.Artifacts {
		if len(a.Files) == 0 || slices.ContainsFunc(a.Files, badGlob) {
			r.fail(key("artifacts", i, "files"), "%s: files: expected patterns such as \"*.log\"", who)
		}
		for name, text := range map[string]string{"passed": a.Keep.Passed, "failed": a.Keep.Failed} {
			if _, err := keeping(text); err != nil {
				r.fail(key("artifacts", i, "keep", name), "%s: keep %v", who, err)
			}
		}
	}
	r.checkWhen(at, o.When)
}

// put fills in a stage's options for a cell: its own, and where it says nothing
// the defaults.
func (r *reader) put(s *Stage, own options, sc *scope, at []any) {
	o := own.over(r.doc.Defaults)
	// key is the place of an option: the stage's, or that of the defaults.
	key := func(mine bool, k ...any) []any {
		if mine {
			return append(slices.Clone(at), k...)
		}
		return append([]any{"defaults"}, k...)
	}
	s.Retry = DefaultRetry()
	for _, class := range classes {
		if n, err := strconv.Atoi(o.Retry[string(class)]); err == nil {
			s.Retry[class] = n
		}
	}
	s.RetryDelay, _ = duration(o.Retry["delay"], maxDelay)
	s.Timeout = DefaultTimeout
	if o.Timeout != "" {
		text, err := sc.text(o.Timeout)
		if err == nil {
			s.Timeout, err = duration(text, maxTimeout)
		}
		if err != nil {
			r.fail(key(own.Timeout != "", "timeout"), "stage %s: timeout %v", s.Name, err)
		}
	}
	requires, err := sc.texts(o.Requires)
	if err != nil {
		r.fail(key(own.Requires != nil, "requires"), "stage %s: %v", s.Name, err)
	}
	for _, q := range requires {
		if !requireRE.MatchString(q) {
			r.fail(key(own.Requires != nil, "requires"), "stage %s: requires %q: expected a capability such as kvm or arch=amd64", s.Name, q)
		}
	}
	slices.Sort(requires)
	s.Requires = slices.Compact(requires)
	for i, a := range o.Artifacts {
		files, err := sc.texts(a.Files)
		if err != nil {
			r.fail(key(own.Artifacts != nil, "artifacts", i), "stage %s: %v", s.Name, err)
		}
		passed, _ := keeping(a.Keep.Passed)
		failed, _ := keeping(a.Keep.Failed)
		s.Artifacts = append(s.Artifacts, Artifact{files, passed, failed})
	}
	s.Skip = r.leftOut(o.When)
}

// duration reads a positive duration such as 90s; "" is 0.
func duration(text string, most time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q: expected a duration such as 90s or 10m", text)
	}
	if d > most {
		return 0, fmt.Errorf("%q: at most %v", text, most)
	}
	return d, nil
}

const maxDays = 36500

// keeping reads how long something is kept: "0", "12h", "30d", "8w", "forever".
func keeping(text string) (time.Duration, error) {
	bad := fmt.Errorf("%q: expected 0, forever, or a time such as 12h, 30d or 8w", text)
	switch {
	case text == "" || text == "forever":
		return Forever, nil
	case text == "0":
		return 0, nil
	}
	count, err := strconv.Atoi(text[:len(text)-1])
	if err != nil || count < 0 || strings.HasPrefix(text, "+") {
		return 0, bad
	}
	unit := map[byte]time.Duration{'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[text[len(text)-1]]
	if unit == 0 || count > maxDays {
		return 0, bad
	}
	return time.Duration(count) * unit, nil
}
