package superblock

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var sample = Superblock{UUID: [16]byte{1, 15: 16}, Salt: []byte{1, 2, 3}, DataBlocks: 7}

func TestRead(t *testing.T) {
	b := sample.Marshal()
	got, err := Read(bytes.NewReader(b))
	if diff := cmp.Diff(&sample, got); err != nil || len(b) != BlockSize || diff != "" {
		t.Errorf("%v, %d bytes (-want +got):\n%s", err, len(b), diff)
	}
	if s, err := Read(bytes.NewReader(b[:511])); err == nil {
		t.Errorf("cut off: %+v", s)
	}
	for name, change := range map[string]func([]byte){
		"magic":      func(b []byte) { b[0] = 'V' },
		"version":    func(b []byte) { b[8] = 2 },
		"hash type":  func(b []byte) { b[12] = 0 },
		"algorithm":  func(b []byte) { copy(b[32:], "sha1\x00\x00") },
		"data block": func(b []byte) { b[65] = 2 },
		"hash block": func(b []byte) { b[69] = 2 },
		"salt":       func(b []byte) { b[81] = 2 },
		"no blocks":  func(b []byte) { clear(b[72:80]) },
		"blocks":     func(b []byte) { b[79] = 1 },
	} {
		b := bytes.Clone(b)
		change(b)
		if s, err := Read(bytes.NewReader(b)); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Read(bytes.NewReader(b)); err == nil &&
			(s.DataBlocks < 1 || s.DataBlocks > MaxBlocks || len(s.Salt) > MaxSalt) {
			t.Errorf("%+v", s)
		}
	})
}
