package step

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/pipeline"
)

func TestReads(t *testing.T) {
	digest := "sha256:" + "ab"
	for uses, want := range map[string][]Read{
		"build, with: {definition: x.yaml}":                            {{Channel: "candidate"}, {Channel: "staging"}},
		"smoke, with: {machine: libvirt}":                              nil,
		"upgrade, with: {machine: libvirt}":                            {{Channel: "candidate", Disk: true}},
		"upgrade, with: {machine: libvirt, from: staging}":             {{Channel: "staging", Disk: true}},
		"upgrade, with: {machine: libvirt, from: '" + digest + "'}":    {{Digest: digest, Disk: true}},
		"broken-upgrade, with: {broken: staging}":                      {{Channel: "staging", Disk: true}},
		"broken-upgrade, with: {broken: bad.yaml}":                     {{Channel: "candidate"}, {Channel: "staging"}},
		"script, with: {run: x.sh, args: [from], environment: {a: b}}": nil,
	} {
		p, err := pipeline.Parse("p.yaml", []byte("apiVersion: goldsmith/v1\nname: p\nchannels: [{name: candidate}, {name: staging}]\nstages:\n  - {name: a, uses: "+uses+"}\n"), nil, Names())
		if err != nil {
			t.Fatal(err)
		}
		got, err := Reads(p, "a")
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v\n%s", uses, err, d)
		}
	}
}
