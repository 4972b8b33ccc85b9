package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/verity/superblock"
)

func TestAttempts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "boot", "attempts.jsonl")
	for i := range 70 {
		if err := keepAttempt(dir, attempt{RootHash: "ab", BootID: fmt.Sprint(i), Stage: stageState}); err != nil {
			t.Fatal(err)
		}
	}
	// A line that was cut off by a power cut on a file system that does that.
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"roothash":`)
	f.Close()
	const cause = "a \"b\" \\ \n\x01 <&> \u00fc"
	if err := keepAttempt(dir, attempt{RootHash: "ab", BootID: "70", Stage: stageFailed, Error: cause}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) != maxAttempts || !strings.Contains(lines[0], `"boot_id":"7"`) {
		t.Errorf("%d lines, the first is %s", len(lines), lines[0])
	}
	var got map[string]string
	err = json.Unmarshal([]byte(lines[len(lines)-1]), &got)
	want := map[string]string{"roothash": "ab", "boot_id": "70", "stage": "failed", "error": cause}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	// Whoever may write to the state partition leads us nowhere else.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", file); err != nil {
		t.Fatal(err)
	}
	if err := keepAttempt(dir, attempt{}); err == nil {
		t.Error("a symbolic link was followed")
	}
}

func TestVerityRequest(t *testing.T) {
	sb := &superblock.Superblock{DataBlocks: 9, Salt: []byte{1, 0xab}}
	hash := rootHash{0xff, 1}
	want := "1 /dev/a /dev/b 4096 4096 9 1 sha256 ff01" + strings.Repeat("00", 30) + " 01ab 1 panic_on_corruption"
	if got := verityTable("/dev/a", "/dev/b", sb, hash); got != want {
		t.Errorf("table %q, want %q", got, want)
	}
	sb.Salt = nil
	if got := verityTable("/dev/a", "/dev/b", sb, hash); !strings.Contains(got, " - 1 panic") {
		t.Errorf("without salt: %q", got)
	}
	b := mapper{name: "root", uuid: "U"}.request(targetSpec("verity", 72, want))
	if len(b)%8 != 0 || len(b) < dmHeader+dmTarget+len(want)+1 || string(b[48:53]) != "root\x00" ||
		string(b[176:178]) != "U\x00" {
		t.Errorf("request of %d bytes: %q", len(b), b[:200])
	}
	if spec := string(b[dmHeader:]); spec[8] != 72 || spec[24:31] != "verity\x00" ||
		!strings.HasPrefix(spec[dmTarget:], want+"\x00") {
		t.Errorf("target %q", spec)
	}
}
