package machinetest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"goldsmith/internal/evidence"
)

// pattern is something that is always bad on a console.
type pattern struct {
	name  string
	re    *regexp.Regexp
	class evidence.Class
}

// patterns, most telling first. The list began with kola's
// (mantle/kola/harness.go of coreos-assembler).
var patterns = []pattern{
	{"panic", regexp.MustCompile(`Kernel panic - not syncing.*`), evidence.ImageFault},
	{"boot-failed", regexp.MustCompile(`imginit: .*BOOT FAILED.*`), evidence.ImageFault},
	{"emergency-shell", regexp.MustCompile(`You are in emergency mode|Starting Emergency Shell|Press Enter for emergency shell|Cannot open access to console`), evidence.ImageFault},
	{"oops", regexp.MustCompile(`\b(Oops: |BUG: unable to handle|general protection fault|kernel BUG at ).*`), evidence.ImageFault},
	{"ordering-cycle", regexp.MustCompile(`.*Ordering cycle found.*|.*Found ordering cycle on.*`), evidence.ImageFault},
	{"out-of-memory", regexp.MustCompile(`Out of memory: Kill.*|\boom-kill:.*|.*invoked oom-killer.*`), evidence.ImageFault},
	{"hung-task", regexp.MustCompile(`INFO: task .* blocked for more than \d+ seconds`), evidence.Unknown},
	{"lockup", regexp.MustCompile(`watchdog: BUG: soft lockup.*|Watchdog detected hard LOCKUP.*|rcu: INFO: rcu_\w+ .*detected stalls?.*`), evidence.Unknown},
	{"hardware-error", regexp.MustCompile(`\[Hardware Error\].*|mce: .*Machine Check.*`), evidence.Infra},
	{"io-error", regexp.MustCompile(`.*\bI/O error, dev \w+.*|Buffer I/O error on dev.*|.*rejecting I/O to offline device.*|.*blk_update_request: .*error.*`), evidence.Infra},
	{"verity", regexp.MustCompile(`device-mapper: verity: .*(corrupted|error).*`), evidence.Infra},
	{"file-system", regexp.MustCompile(`EXT4-fs error.*|erofs: .*error.*|SQUASHFS error.*|FAT-fs .*error.*`), evidence.Infra},
	{"generator", regexp.MustCompile(`systemd\[\d+\]: .*(generator|generators/\S+) (failed with|terminated by).*`), evidence.ImageFault},
	{"kernel-warning", regexp.MustCompile(`WARNING: CPU: \d+ PID: \d+ at .*`), evidence.ImageFault},
	{"segfault", regexp.MustCompile(`\S+\[\d+\]: segfault at .*`), evidence.ImageFault},
	{"read-only", regexp.MustCompile(`.*Remounting filesystem read-only.*`), evidence.Infra},
}

// Finding is a bad line on a console.
type Finding struct {
	Name  string // of the pattern
	Line  string
	Class evidence.Class
}

func (f Finding) String() string { return fmt.Sprintf("console: %s: %s", f.Name, f.Line) }

// maxFindings bounds what is told of a console that shows nothing but errors.
const maxFindings = 10

var (
	escapes = regexp.MustCompile(`\x1b(\[[0-9;?=]*[a-zA-Z]|[()].|.)`)
	stamp   = regexp.MustCompile(`^\[ *\d+\.\d+\] `)
)

// Scan returns what is bad in a console's text, each pattern once, most telling
// first; patterns named in expected are not.
func Scan(text string, expected ...string) []Finding {
	var found []Finding
	lines := strings.FieldsFunc(escapes.ReplaceAllString(text, ""), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, p := range patterns {
		if slices.Contains(expected, p.name) {
			continue
		}
		for _, l := range lines {
			if m := p.re.FindString(stamp.ReplaceAllString(l, "")); m != "" {
				found = append(found, Finding{p.name, OneLine(m), p.class})
				break
			}
		}
		if len(found) == maxFindings {
			break
		}
	}
	return found
}
