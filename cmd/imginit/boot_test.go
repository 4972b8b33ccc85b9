package main

import (
	"strings"
	"testing"

	"goldsmith/internal/earlyboot"
	"goldsmith/internal/initramfs"
)

func TestRootGUID(t *testing.T) {
	c := parseCmdline("root=PARTUUID=0011AAbb-1111-2222-3333-444455556666 ro")
	if got, err := c.rootGUID(); err != nil || got != "0011aabb-1111-2222-3333-444455556666" {
		t.Errorf("rootGUID() = %q, %v", got, err)
	}
	for _, s := range []string{"", "quiet", "root=/dev/sda1", "root=PARTUUID=1",
		"root=LABEL=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"} {
		if _, err := parseCmdline(s).rootGUID(); err == nil {
			t.Errorf("rootGUID of %q: no error", s)
		}
	}
}

func TestRootHash(t *testing.T) {
	const hash = "0011aabb11112222333344445555666677778888999900001111222233334444"
	for _, c := range []struct{ args, err string }{
		{"roothash=" + hash, ""},
		{"root=PARTUUID=0011AABB-1111-2222-3333-444455556666 roothash=" + strings.ToUpper(hash), ""},
		{"root=PARTUUID=1111aabb-1111-2222-3333-444455556666 roothash=" + hash, "different roots"},
		{"root=/dev/vda roothash=" + hash, "want PARTUUID="},
		{"root=PARTUUID=0011aabb-1111-2222-3333-444455556666", "no roothash="},
		{"roothash=" + hash[1:], "want 64"}, {"roothash=" + hash[2:], "want 64"}, {"roothash=x" + hash[1:], "want 64"},
	} {
		got, err := parseCmdline(c.args).rootHash()
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %q", c.args, err, c.err)
			}
			continue
		}
		if err != nil || formatGUID(got[16:]) != "77778888-9999-0000-1111-222233334444" {
			t.Errorf("%s: %x, %v", c.args, got, err)
		}
	}
}

// What internal/initramfs writes must be what this program looks for.
func TestLivePlace(t *testing.T) {
	if liveRoot != "/"+initramfs.LiveRootPath || earlyboot.PlanFile != "/"+initramfs.ConfigPath {
		t.Error("the places in an initramfs are not internal/initramfs's")
	}
}
