package main

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWholeRoot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "root")
	b := make([]byte, 5000)
	copy(b[1000:], "hsqs")
	for used, want := range map[uint64]string{4000: "", 4001: "too little memory", 1 << 63: "too little memory"} {
		binary.LittleEndian.PutUint64(b[1040:], used)
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		err := wholeRoot(file, 1000)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d bytes used: %v; want %q", used, err, want)
		}
	}
	for _, offset := range []int64{0, 4990} {
		if err := wholeRoot(file, offset); err == nil || !strings.Contains(err.Error(), "no SquashFS") {
			t.Errorf("at byte %d: %v", offset, err)
		}
	}
}
