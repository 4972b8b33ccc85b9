package machinetest

import (
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/yamlfile"
)

// Snooze lets a test fail without consequences until a day, while somebody
// works on it.
type Snooze struct {
	Test      string   // ELEMENT/NAME; * stands for any part of it
	URL       string   `yaml:"url"` // where the work is followed
	Until     string   // the last day, 2026-12-31; counted in UTC
	Platforms []string // nil: all
}

// Snoozes are those of one file (docs/formats.md).
type Snoozes struct{ list []Snooze }

// ReadSnoozes reads a file. Errors name the file and the line: a snooze without
// a URL or an end is none.
func ReadSnoozes(file string) (*Snoozes, error) {
	var list struct{ Snoozes []Snooze }
	f, err := yamlfile.Read(file, &list)
	if err != nil {
		return nil, err
	}
	for i, s := range list.Snoozes {
		at := func(key string) []any { return []any{"snoozes", i, key} }
		u, uerr := url.Parse(s.URL)
		_, terr := s.end()
		_, perr := path.Match(s.Test, "")
		switch {
		case s.Test == "" || perr != nil:
			return nil, f.Errorf(at("test"), "snooze: test %q: expected ELEMENT/NAME", s.Test)
		case uerr != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			return nil, f.Errorf(at("url"), "snooze of %s: url %q: expected where somebody works on it, such as https://…/issues/7", s.Test, s.URL)
		case terr != nil:
			return nil, f.Errorf(at("until"), "snooze of %s: until %q: expected a day such as 2026-12-31", s.Test, s.Until)
		}
		for _, p := range s.Platforms {
			if !slices.Contains(platforms, p) {
				return nil, f.Errorf(at("platforms"), "snooze of %s: platforms: %q: expected %s", s.Test, p, strings.Join(platforms, ", "))
			}
		}
	}
	return &Snoozes{list.Snoozes}, nil
}

// end is the first moment that is not snoozed any more.
func (s Snooze) end() (time.Time, error) {
	day, err := time.Parse(time.DateOnly, s.Until)
	return day.AddDate(0, 0, 1), err
}

// Find returns the snooze that counts for a test now, or nil. A nil Snoozes has
// none.
func (s *Snoozes) Find(t *Test, platform string, now time.Time) *Snooze {
	if s == nil {
		return nil
	}
	for i, z := range s.list {
		match, _ := path.Match(z.Test, t.Label())
		end, err := z.end()
		if match && err == nil && now.Before(end) && (z.Platforms == nil || slices.Contains(z.Platforms, platform)) {
			return &s.list[i]
		}
	}
	return nil
}

// Expired returns the snoozes whose day is over: they do nothing, and somebody
// should know.
func (s *Snoozes) Expired(now time.Time) []Snooze {
	var over []Snooze
	if s == nil {
		return nil
	}
	for _, z := range s.list {
		if end, err := z.end(); err == nil && !now.Before(end) {
			over = append(over, z)
		}
	}
	return over
}
