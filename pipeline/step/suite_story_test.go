package step

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/element"
	"goldsmith/internal/update"
)

// runs has the machine run an image, and report it.
func runs(m *fakeMachine, digest string) {
	m.mu.Lock()
	m.status.Record.Slots["a"] = &update.Slot{Digest: digest}
	m.mu.Unlock()
	m.reboot()
}

// returns has the machine come back from an image, and say so.
func returns(m *fakeMachine, digest string) {
	m.mu.Lock()
	m.status.Record.Failed = []update.Failure{{Digest: digest, Reason: "it is never well"}}
	m.boots++
	m.mu.Unlock()
	m.report("FAILURE", "image "+digest+" failed on this machine")
}

// listen acts on what the metadata want, as often as that changes.
func (m *fakeMachine) listen(ctx context.Context, installed string) {
	for last := installed; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		d := m.wanted()
		if d == "" || d == last {
			continue
		}
		last = d
		m.mu.Lock()
		now := m.status.Record.Slots["a"].Digest
		m.mu.Unlock()
		switch {
		case d == now:
			m.report("SUCCESS", "Configuration complete")
		case m.follow != nil:
			m.follow(m, d)
		default:
			runs(m, d)
		}
	}
}

// A machine that does right passes each suite; one that does not fails it, and
// the test says why.
func TestSuites(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"imgupdate", "redis", "ssh-server"}
	elements := t.TempDir()
	for _, e := range all {
		if err := os.MkdirAll(filepath.Join(elements, e), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old, img, other := put(t, s, "demo", "1", all...), put(t, s, "demo", "2", all...), put(t, s, "demo", "3", all...)
	said := func(part, text string) func(*fakeMachine, string) (string, bool) {
		return func(_ *fakeMachine, line string) (string, bool) { return text, strings.Contains(line, part) }
	}
	silent := func(*fakeMachine, string) {}
	forgets := func(m *fakeMachine, digest string) {
		keys := m.database.Keys()
		m.database.Del(keys[len(keys)/2])
		runs(m, digest)
	}
	const up, metadata = "upgrade, with: {from: ", ", metadata: {redis: {password: secret}}}"
	for _, tt := range []struct {
		name, uses string
		machine    hooks
		want       string // of the error; "" is none
	}{
		{"upgrade", up + old + metadata, hooks{}, ""},
		{"upgrade by kexec, without a load", up + old + ", restart: kexec, load: none}", hooks{}, ""},
		{"a lost write", up + old + metadata, hooks{follow: forgets}, "upgrade/update-writes: 1 of "},
		{"an update that returns", up + old + metadata, hooks{follow: returns}, "upgrade/update: version 2 was returned: it is never well"},
		{"an update that is refused", up + old + metadata,
			hooks{follow: func(m *fakeMachine, _ string) { m.report("FAILURE", "no signature") }}, "upgrade/update: version 2 was refused: no signature"},
		{"an update without an end", up + old + metadata, hooks{follow: silent}, "upgrade/update: the machine has not settled: too late"},
		{"broken", "broken-upgrade, with: {broken: " + other + ", why: never well}", hooks{follow: returns}, ""},
		{"broken for another reason", "broken-upgrade, with: {broken: " + other + ", why: a panic}", hooks{follow: returns},
			`broken-upgrade/return: the machine returned for another reason than "a panic": it is never well`},
		{"broken, and is not", "broken-upgrade, with: {broken: " + other + "}", hooks{}, "broken-upgrade/return: the broken version 3 was proved"},
		{"data are lost", "broken-upgrade, with: {broken: " + other + "}", hooks{follow: returns, answer: said("cat "+dataFile, "")},
			`broken-upgrade/data-kept: /var/lib/goldsmith-suite/data has ""; it was "precious"`},
		{"reset", "reset", hooks{}, ""},
		{"a reset that keeps", "reset", hooks{answer: said("test -e", "there\n")}, "reset/forgotten: /var/lib/goldsmith-suite/data is still there"},
		{"reboots", "reboots, with: {times: 2}", hooks{}, ""},
		{"a unit fails", "reboots, with: {times: 2}", hooks{answer: said("is-system-running", "degraded\nx.service\n")},
			"reboots/reboot-1: the machine is degraded x.service"},
		{"it does not come back", "reboots, with: {times: 2}", hooks{start: func(m *fakeMachine) bool { return m.boots < 3 }},
			"reboots/reboot-2: it did not come back: too late"},
		{"power", "power-cycle, with: {times: 2}", hooks{}, ""},
		{"power, and a write is lost", "power-cycle, with: {times: 2}", hooks{answer: said("cat "+dataDir+"/writes", "1\n")},
			"power-cycle/cut-1-writing: 1 of 2 acknowledged writes are lost, the first is number 2"},
		{"power, and a file system is damaged", "power-cycle, with: {times: 2}", hooks{answer: said("errors_count", "/sys/fs/ext4/vda6/errors_count:1\n")},
			"power-cycle/cut-1-writing: a file system has errors: /sys/fs/ext4/vda6/errors_count:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, steps, err := load(t, s, "stages:\n- {name: s, uses: "+tt.uses+"}")
			if err != nil {
				t.Fatal(err)
			}
			p := newFakePlace(t)
			p.machine.hooks = tt.machine
			step := steps["s"].(*onMachine)
			step.place, step.env.Elements = p, element.Path{elements}
			if c, ok := step.suite.(*powerCycle); ok {
				c.longest = 10 * time.Millisecond
			}
			limit := 20 * time.Second
			if strings.HasSuffix(tt.want, "too late") {
				limit = time.Second
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), limit, errors.New("too late"))
			defer cancel()
			_, err = step.Run(ctx, job(t, img))
			if got := errorText(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
			proofs, err := s.Proofs(img)
			if err != nil || len(proofs) == 0 || proofs[len(proofs)-1].Passed != (tt.want == "") {
				t.Errorf("evidence %v, %v", proofs, err)
			}
		})
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
