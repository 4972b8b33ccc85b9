package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/evidence"
	"goldsmith/internal/testenv"
)

const isolatedImage = `name: isolated
version: "1"
release: bookworm
elements: [debian, boot, read-only-root, refreshcfg, collectcfg, qemu-guest-agent, console-shell, asks]
environment: {BOOT_KERNEL: cloud, COLLECTCFG_SOURCES: nocloud}
outputs: [raw]
`

const isolatedPipeline = `apiVersion: goldsmith/v1
name: isolated
stages:
- {name: build, uses: build, timeout: 20m, with: {definition: image.yaml}}
- {name: agent, uses: smoke, with: {network: none, shell: agent}}
- {name: console, uses: smoke, with: {network: none, shell: console}}
`

// A machine without any network is tested through QEMU's guest agent, and through
// its console.
func TestSmokeWithoutNetwork(t *testing.T) {
	need(t, false)
	testenv.Need(t, "qemu-ga")
	s := &suites{t: t, dir: t.TempDir()}
	s.write("image.yaml", isolatedImage)
	s.write("elements/asks/README.md", "# asks\n\nTests of a machine without a network.\n")
	s.write("elements/asks/smoke.d/10-on-host", `#!/bin/sh
# Asks the machine from outside of it.
set -eu
[ -z "$MACHINE_ADDR" ]
[ "$(echo "it's me" | "$MACHINE_SSH" 'cat; cat /sys/class/net/*/operstate | sort -u')" = "it's me
unknown" ]
status=0
"$MACHINE_SSH" 'echo oh >&2; exit 3' || status=$?
[ "$status" = 3 ]
`)
	s.write("elements/asks/smoke.d/20-on-machine", `#!/bin/sh
## goldsmith: {on: machine, shares: true}
set -eu
[ "$(ls /sys/class/net)" = lo ]
[ "$(systemctl show -P ActiveState multi-user.target)" = active ]
`)
	for _, name := range []string{"10-on-host", "20-on-machine"} {
		if err := os.Chmod(filepath.Join(s.dir, "elements/asks/smoke.d", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.env = []string{elements(t) + ":" + s.dir + "/elements"}
	r := s.runFile(isolatedPipeline)
	if got := statuses(r); got != "build=passed agent=passed console=passed" {
		t.Fatalf("stages: %s", got)
	}
	e := s.evidence(r.Stages[0].Image, "libvirt-smoke")
	var names []string
	for _, k := range e.Tests {
		if k.Result == evidence.Pass {
			names = append(names, k.Element+"/"+k.Name)
		}
	}
	if got := strings.Join(names, " "); !strings.Contains(got, "asks/10-on-host asks/20-on-machine") || e.Stage != "console" {
		t.Errorf("passed in %s: %s", e.Stage, got)
	}
}
