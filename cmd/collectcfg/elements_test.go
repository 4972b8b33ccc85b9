package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The element cloud-init has a default of its own for the sources, which the
// definition's value replaces and no command line does.
func TestSourcesOfElements(t *testing.T) {
	const elements = "../../elements/"
	defaults := func(value string, names ...string) string {
		var files []string
		for _, n := range names {
			more, err := filepath.Glob(elements + n + "/environment.d/*")
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, more...)
		}
		slices.SortFunc(files, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
		args := append([]string{"-c", `set -eu; for f; do . "$f"; done; echo "$COLLECTCFG_SOURCES"`, "bash"}, files...)
		cmd := exec.Command("bash", args...)
		cmd.Env = append(os.Environ(), "COLLECTCFG_SOURCES="+value)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, tc := range []struct {
		value    string
		elements []string
		want     string
	}{
		{"", []string{"collectcfg"}, "nocloud config_drive local"},
		{"", []string{"collectcfg", "cloud-init"}, "instance_data nocloud local"},
		{"instance_data imgpipe", []string{"collectcfg", "cloud-init"}, "instance_data imgpipe"},
	} {
		if got := defaults(tc.value, tc.elements...); got != tc.want {
			t.Errorf("COLLECTCFG_SOURCES=%q with %v: %q, want %q", tc.value, tc.elements, got, tc.want)
		}
	}
	for _, name := range []string{
		"cloud-init/static/usr/libexec/goldsmith/cloud-init-per-boot",
		"cloud-init/static/usr/lib/systemd/system/collectcfg.service.d/cloud-init.conf",
		"collectcfg/static/usr/lib/systemd/system/collectcfg.service",
	} {
		text, err := os.ReadFile(elements + name)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, args, ok := strings.Cut(line, "/usr/bin/collectcfg")
			args, _, _ = strings.Cut(args, "|")
			for _, word := range strings.Fields(args) {
				if ok && !strings.HasPrefix(word, "--") {
					t.Errorf("%s: the word %q replaces the sources of the image", name, word)
				}
			}
		}
	}
}
