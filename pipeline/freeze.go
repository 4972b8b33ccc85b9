package pipeline

import (
	"errors"
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // the zones of windows, also where the system has none
)

// Window is a time in which nothing is promoted: each week, or between two
// dates.
type Window struct {
	// Weekly is such as "fri 16:00 - mon 08:00".
	Weekly string `yaml:"weekly" json:"weekly,omitempty"`
	// From and Until are such as 2026-12-20 or "2026-12-20 16:00". A day
	// without a time begins at 00:00, so that Until is not part of the window.
	From  string `yaml:"from" json:"from,omitempty"`
	Until string `yaml:"until" json:"until,omitempty"`
	// Zone is the time zone's name, such as Europe/Berlin; empty means UTC.
	Zone string `yaml:"zone" json:"zone,omitempty"`
	Why  string `yaml:"why" json:"why,omitempty"`
}

// window is a Window that has been read.
type window struct {
	zone       *time.Location
	weekly     bool
	begin, end moment    // weekly
	from, to   time.Time // dated
}

// moment is a minute of the week.
type moment struct {
	day          time.Weekday
	hour, minute int
}

var weekdays = map[string]time.Weekday{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}

// parse reads the window.
func (w Window) parse() (p window, err error) {
	if p.zone, err = time.LoadLocation(w.Zone); err != nil || w.Zone == "Local" {
		return p, fmt.Errorf("zone %q: expected a name such as Europe/Berlin", w.Zone)
	}
	if w.Weekly != "" {
		if w.From != "" || w.Until != "" {
			return p, errors.New("either weekly, or from and until")
		}
		begin, end, ok := strings.Cut(w.Weekly, " - ")
		p.weekly = true
		if p.begin, err = parseMoment(begin); err == nil {
			p.end, err = parseMoment(end)
		}
		if err != nil || !ok || p.begin == p.end {
			return p, fmt.Errorf("weekly %q: expected a form such as fri 16:00 - mon 08:00", w.Weekly)
		}
		return p, nil
	}
	if p.from, err = parseDate(w.From, p.zone); err == nil {
		p.to, err = parseDate(w.Until, p.zone)
	}
	if err == nil && !p.from.Before(p.to) {
		err = fmt.Errorf("from %s is not before until %s", w.From, w.Until)
	}
	return p, err
}

func parseMoment(text string) (m moment, err error) {
	day, clock, _ := strings.Cut(strings.ToLower(strings.TrimSpace(text)), " ")
	d, ok := weekdays[day]
	if !ok {
		return m, errors.New("no day")
	}
	t, err := time.Parse("15:04", clock)
	return moment{d, t.Hour(), t.Minute()}, err
}

func parseDate(text string, zone *time.Location) (time.Time, error) {
	for _, form := range []string{"2006-01-02", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(form, text, zone); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q: expected a date such as 2026-12-20, with or without a time such as 16:00", text)
}

// at tells whether now lies in the window, and since and until when it does.
// What cannot be read never ends: a policy that makes no sense lets nothing in.
func (w Window) at(now time.Time) (since, until time.Time, frozen bool) {
	p, err := w.parse()
	if err != nil {
		return time.Time{}, time.Time{}, true
	}
	if !p.weekly {
		return p.from, p.to, !now.Before(p.from) && now.Before(p.to)
	}
	local := now.In(p.zone)
	back := (int(local.Weekday()) - int(p.begin.day) + 7) % 7
	long := (int(p.end.day) - int(p.begin.day) + 7) % 7
	if long == 0 && (p.end.hour < p.begin.hour || p.end.hour == p.begin.hour && p.end.minute < p.begin.minute) {
		long = 7
	}
	// The window that began in this week, or in the one before.
	for _, day := range []int{local.Day() - back, local.Day() - back - 7} {
		since = time.Date(local.Year(), local.Month(), day, p.begin.hour, p.begin.minute, 0, 0, p.zone)
		until = time.Date(local.Year(), local.Month(), day+long, p.end.hour, p.end.minute, 0, 0, p.zone)
		if !now.Before(since) && now.Before(until) {
			return since, until, true
		}
	}
	return time.Time{}, time.Time{}, false
}

// text says the window in words.
func (w Window) text() string {
	t := w.Weekly
	if t == "" {
		t = w.From + " - " + w.Until
	}
	if w.Zone != "" {
		t += " " + w.Zone
	}
	if w.Why != "" {
		t += ": " + w.Why
	}
	return t
}
