package earlyboot

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"virtio:d00000002v*", "virtio:d00000002v00001AF4", true},
		{"virtio:d00000002v*", "virtio:d00000004v00001AF4", false},
		{"pci:v00001AF4d*sv*sd*bc*sc*i*", "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00", true},
		{"pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", true},
		{"pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0094*",
			"cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0094,0097", true},
		{"cpu:type:x86,ven*fam*mod*:feature:*0094*", "cpu:type:x86,ven0002fam000Fmod006B:feature:,0000,0097", false},
		{"scsi:t-0x00*", "scsi:t-0x00", true},
		{"usb:v*p*d*dc*dsc*dp*ic08isc06ip50in*", "usb:v0781p5567d0127dc00dsc00dp00ic08isc06ip50in00", true},
		{"a[0-9]b", "a5b", true},
		{"a[0-9]b", "axb", false},
		{"a[!0-9]b", "axb", true},
		{"a[^0-9]b", "a5b", false},
		{"a[]x]b", "a]b", true},
		{"a[0-9A-Fx]*", "aF", true},
		{"a[-x]b", "a-b", true},
		{"a[x-]b", "a-b", true},
		{"a[b", "a[b", true},
		{"a[b", "ab", false},
		{`a\*b`, "a*b", true},
		{`a\*b`, "axb", false},
		{`a\`, `a\`, true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"*", "", true},
		{"", "", true},
		{"", "a", false},
		{"**a**", "xxa", true},
		{"a*b*c", "a1b2b3c", true},
		{"a*b*c", "a1b2b3", false},
	} {
		if got := match(c.pattern, c.s); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

// plain is the obvious matcher, without brackets and backslashes.
func plain(p, s string) bool {
	if p == "" {
		return s == ""
	}
	if p[0] == '*' {
		return plain(p[1:], s) || s != "" && plain(p, s[1:])
	}
	return s != "" && (p[0] == '?' || p[0] == s[0]) && plain(p[1:], s[1:])
}

func TestMatchAgainstPlain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[ab*?]{0,10}`).Draw(t, "pattern")
		s := rapid.StringMatching(`[ab]{0,10}`).Draw(t, "text")
		if got, want := match(p, s), plain(p, s); got != want {
			t.Fatalf("match(%q, %q) = %v", p, s, got)
		}
	})
}

func TestMatchIsNotExponential(t *testing.T) {
	began := time.Now()
	if match(strings.Repeat("a*", 2000)+"b", strings.Repeat("a", 20000)) {
		t.Error("matched")
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("a[b-", "ab")
	f.Add(`[\`, "[")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern)+len(s) > 1000 {
			return
		}
		got := match(pattern, s) // must end, and stay inside
		if !strings.ContainsAny(pattern, `*?[\`) && got != (pattern == s) {
			t.Errorf("match(%q, %q)", pattern, s)
		}
	})
}
