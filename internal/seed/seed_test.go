package seed

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

var example = Seed{
	InstanceID:     "run-7-node1",
	Hostname:       "node1",
	AuthorizedKeys: []string{"ssh-ed25519 AAAA pipe: line\n"},
	Metadata:       map[string]any{"ntp": map[string]any{"servers": []string{"10.78.0.1"}}, "a": 1},
}

func TestContent(t *testing.T) {
	testenv.Need(t, "fsck.fat")
	testenv.Need(t, "mcopy")
	img := filepath.Join(t.TempDir(), "seed.img")
	if err := Write(img, example); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(img); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v (%v); want 0600", fi.Mode().Perm(), err)
	}
	read := func(args ...string) string {
		t.Helper()
		out, err := command.Exec{Args: args}.Output(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	read("fsck.fat", "-n", img)
	if got := read("mlabel", "-s", "-i", img, "::"); !strings.Contains(got, "CIDATA") {
		t.Errorf("label: %q", got)
	}
	for file, want := range map[string]string{
		"meta-data": `instance-id: run-7-node1
local-hostname: node1
public-keys:
  - 'ssh-ed25519 AAAA pipe: line'
`,
		"user-data": `#cloud-config
hostname: node1
ssh_authorized_keys:
  - 'ssh-ed25519 AAAA pipe: line'
`,
		"goldsmith/metadata.json": `{
  "a": 1,
  "ntp": {
    "servers": [
      "10.78.0.1"
    ]
  }
}
`,
	} {
		if diff := cmp.Diff(want, read("mcopy", "-i", img, "::/"+file, "-")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
}

func TestSameBytes(t *testing.T) {
	dir := t.TempDir()
	var images [2][]byte
	for i := range images {
		if err := Write(filepath.Join(dir, "img"), example); err != nil {
			t.Fatal(err)
		}
		images[i], _ = os.ReadFile(filepath.Join(dir, "img"))
	}
	if len(images[0]) == 0 || !bytes.Equal(images[0], images[1]) {
		t.Error("the same seed gave different bytes")
	}
}

func TestRefused(t *testing.T) {
	dir := t.TempDir()
	for want, s := range map[string]Seed{
		"must not be empty": {Hostname: "h"},
		"not one line":      {InstanceID: "i", Hostname: "h", AuthorizedKeys: []string{"a\nb"}},
		"metadata: json":    {InstanceID: "i", Hostname: "h", Metadata: make(chan int)},
	} {
		err := Write(filepath.Join(dir, "img"), s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v; want %q", err, want)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}
