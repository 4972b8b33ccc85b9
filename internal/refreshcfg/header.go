package refreshcfg

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/hook"
)

// Header is what a hook says of itself in its line "## goldsmith: {...}". The
// zero value is a hook that runs every time, after all hooks before it.
type Header struct {
	// Changed are absolute paths, or patterns of them as in path.Match, and
	// dotted keys of the metadata. The hook runs only when one of them is not
	// what it was when the hook last succeeded. Nil: it always runs.
	Changed []string `json:"changed,omitempty"`
	// After are hooks of the same phase, by name. The hook starts when these
	// have succeeded, beside others that do not wait for each other. Names
	// that this machine has not are passed over. Nil: after all hooks before
	// it; empty but not nil: when the phase begins.
	After []string `json:"after,omitzero"`
	// Timeout bounds one attempt; 0 means no bound. Retries is how often a
	// hook that failed is tried again, Delay the pause before that.
	Timeout Duration `json:"timeout,omitzero"`
	Retries int      `json:"retries,omitempty"`
	Delay   Duration `json:"delay,omitzero"`
	// Semaphore is NAME or NAME:COUNT. At most COUNT hooks (1) with that name
	// run at the same time.
	Semaphore string `json:"semaphore,omitempty"`
	// Once is "image", for a hook that has to succeed once in each image, or
	// "machine", for a migration: it succeeds once, and never again.
	Once string `json:"once,omitempty"`
	// A migration says how the way back is: Reversible, where an older image
	// can use what it leaves, or which paths are to be as they were.
	Reversible bool     `json:"reversible,omitempty"`
	Snapshot   []string `json:"snapshot,omitempty"`
}

// Duration is written as time.ParseDuration reads it: "30s", "2m".
type Duration time.Duration

// UnmarshalText reads a duration that is not negative.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v < 0 {
		err = fmt.Errorf("time: duration %q is negative", text)
	}
	*d = Duration(v)
	return err
}

// MarshalText is UnmarshalText's inverse.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Values of Header.Once.
const (
	onceImage   = "image"
	onceMachine = "machine"
)

// maxHook bounds how much of a hook is searched for its header, in bytes. A
// hook may be a program of any size.
const maxHook = 64 << 10

// readHeader reads and checks the header of the hook at path.
func readHeader(path string) (h Header, err error) {
	text, err := readStart(path, maxHook)
	if os.IsPermission(err) {
		return h, nil // may be run without being readable
	}
	if err != nil {
		return h, err
	}
	if err = hook.Header(text, &h); err == nil {
		err = h.check()
	}
	if err != nil {
		return h, command.BadInput(fmt.Errorf("%s: header: %w", path, err), `such as ## goldsmith: {"timeout": "30s", "changed": ["/etc/app.conf"]}; docs/hooks.md has all`)
	}
	return h, nil
}

// isSemaphore tells whether a word is NAME or NAME:COUNT, with a count from 1
// to 999.
func isSemaphore(word string) bool {
	name, count, counted := strings.Cut(word, ":")
	n, err := strconv.Atoi(count)
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
	return name != "" && strings.Trim(name, letters) == "" && (!counted || err == nil && n > 0 && n < 1000 && count[0] != '+')
}

func (h *Header) check() error {
	switch h.Once {
	case "", onceImage:
		if h.Reversible || h.Snapshot != nil {
			return fmt.Errorf(`"reversible" and "snapshot" belong to "once": "machine"`)
		}
	case onceMachine:
		if h.Reversible == (h.Snapshot != nil) {
			return fmt.Errorf(`"once": "machine" wants either "reversible": true, or in "snapshot" the paths that an older image needs as they were`)
		}
	default:
		return fmt.Errorf(`"once": %q is neither "image" nor "machine"`, h.Once)
	}
	if h.Once != "" && h.Changed != nil {
		return fmt.Errorf(`"once" and "changed" exclude each other`)
	}
	if h.Retries < 0 || h.Retries > 1000 {
		return fmt.Errorf(`"retries": %d: from 0 to 1000`, h.Retries)
	}
	if h.Semaphore != "" && !isSemaphore(h.Semaphore) {
		return fmt.Errorf(`"semaphore": %q: a name, or NAME:COUNT`, h.Semaphore)
	}
	if h.Snapshot != nil && len(h.Snapshot) == 0 {
		return fmt.Errorf(`"snapshot": []: names no path; where there is nothing to put back, say "reversible": true`)
	}
	if err := checkSnapshot(h.Snapshot); err != nil {
		return err
	}
	for _, p := range h.Changed {
		if _, err := filepath.Match(p, ""); p == "" || err != nil {
			return fmt.Errorf(`"changed": %q: an absolute path, a pattern of one, or a key of the metadata`, p)
		}
	}
	return nil
}

func checkSnapshot(paths []string) error {
	for _, p := range paths {
		if p != path.Clean(p) || !strings.HasPrefix(p, "/") || p == "/" {
			return fmt.Errorf(`"snapshot": %q: an absolute path, not the root`, p)
		}
	}
	return nil
}

// checkSemaphores refuses two counts of one semaphore among the hooks of a
// phase.
func checkSemaphores(names []string, heads []Header) error {
	counts, first := map[string]int{}, map[string]string{}
	for i := range heads {
		name, count := heads[i].semaphore()
		if name == "" {
			continue
		}
		if first[name] != "" && counts[name] != count {
			return command.BadInput(fmt.Errorf(`"semaphore": %s is for %d in %s and for %d in %s`, name, counts[name], first[name], count, names[i]),
				"give it the same count in all hooks of the phase; without a count it is 1")
		}
		counts[name], first[name] = count, or(first[name], names[i])
	}
	return nil
}

// semaphore is the name and count of Semaphore.
func (h *Header) semaphore() (name string, count int) {
	name, n, _ := strings.Cut(h.Semaphore, ":")
	if count, _ = strconv.Atoi(n); count == 0 {
		count = 1
	}
	return name, count
}
