package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC) // a Monday

// proofs reads evidence as tests write it: KIND[/VARIANT], then + (pass), -
// (fail), r (pass on rerun), and for signed ones s; each an hour later.
func proofs(text string) (out []Proof) {
	for w := range strings.FieldsSeq(text) {
		kind, signed := strings.CutSuffix(w, "s")
		p := Proof{Digest: fmt.Sprintf("sha256:%d", len(out)), ID: fmt.Sprint(len(out)), At: noon.Add(time.Duration(len(out)-100) * time.Hour)}
		switch kind[len(kind)-1] {
		case '+':
			p.Passed = true
		case 'r':
			p.Passed, p.Rerun = true, true
		}
		p.Kind, p.Variant, _ = strings.Cut(kind[:len(kind)-1], "/")
		if signed {
			p.Signers = []string{"a.pub"}
		}
		out = append(out, p)
	}
	return out
}

func TestGateEvidence(t *testing.T) {
	both := Channel{Name: "production", Requires: []Requirement{{"libvirt-smoke"}, {"metal-smoke"}}}
	either := Channel{Name: "production", Requires: []Requirement{{"metal-smoke", "libvirt-smoke-uefi"}}}
	signed := Channel{Name: "production", Requires: []Requirement{{"a"}}, SignedBy: []string{"a.pub"}}
	strict := Channel{Name: "production", Requires: []Requirement{{"a"}}, Reruns: "refuse"}
	for _, tt := range []struct {
		c            Channel
		proofs, want string
	}{
		{both, "", "missing evidence: libvirt-smoke, metal-smoke"},
		{both, "libvirt-smoke+", "missing evidence: metal-smoke"},
		{both, "libvirt-smoke+ metal-smoke-", "failed evidence: metal-smoke"},
		{both, "metal-smoke- libvirt-smoke+ metal-smoke+", ""},
		{both, "libvirt-smoke+ metal-smoke+ metal-smoke-", "failed evidence: metal-smoke"},
		{both, "metal-smoke-", "missing evidence: libvirt-smoke; failed evidence: metal-smoke"},
		{either, "", "missing evidence: any of metal-smoke, libvirt-smoke-uefi"},
		{either, "metal-smoke+", ""},
		{either, "libvirt-smoke/uefi+", ""},
		{either, "libvirt-smoke/bios+", "missing evidence: any of metal-smoke, libvirt-smoke-uefi"},
		{either, "metal-smoke- libvirt-smoke/uefi+", ""},
		{either, "metal-smoke-", "failed evidence: any of metal-smoke, libvirt-smoke-uefi"},
		{both, "libvirt-smoke/uefi- libvirt-smoke/bios+ metal-smoke+", "failed evidence: libvirt-smoke"},
		{both, "libvirt-smoke/uefi+ libvirt-smoke/bios+ metal-smoke+", ""},
		{signed, "a+", "evidence that nobody who counts has signed: a"},
		{signed, "a+s", ""},
		{signed, "a+s a-", ""},
		{signed, "a+s a-s", "failed evidence: a"},
		{strict, "ar", "evidence that passed only when run again: a"},
		{strict, "ar a+", ""},
		{Channel{Name: "production", Requires: []Requirement{{"a"}}}, "ar", ""},
		{Channel{Name: "production", Requires: []Requirement{{}}}, "a+", "missing evidence: any of "},
	} {
		got := ""
		if err := Gate(&tt.c, Facts{Image: "sha256:0", Proofs: proofs(tt.proofs)}, noon).Err(); err != nil {
			got = strings.TrimPrefix(err.Error(), "sha256:0 refused for production: ")
		}
		if got != tt.want {
			t.Errorf("Gate(%v, %s) = %q; want %q", tt.c.Requires, tt.proofs, got, tt.want)
		}
	}
}

// A rerun that counts is seen in the decision.
func TestGateShowsReruns(t *testing.T) {
	c := &Channel{Name: "p", Requires: []Requirement{{"a"}, {"b"}}}
	d := Gate(c, Facts{Proofs: proofs("a/uefi+ a/biosr b+")}, noon)
	if want := []string{"a passed, but only when run again", "b passed"}; !d.Open || !slices.Equal(d.Met, want) {
		t.Errorf("%v, %q; want %q", d.Open, d.Met, want)
	}
}

// An old pass that is attached once more after a failure opens nothing.
func TestGateReplayed(t *testing.T) {
	c := &Channel{Name: "p", Requires: []Requirement{{"a"}}}
	p := proofs("a+ a-")
	again := p[0]
	again.Digest = "sha256:again"
	if d := Gate(c, Facts{Proofs: append(p, again)}, noon); d.Open {
		t.Error("a replayed pass opened the gate")
	}
	if d := Gate(c, Facts{Proofs: append(p, Proof{ID: "new", Kind: "a", Passed: true})}, noon); !d.Open {
		t.Errorf("a newer pass does not open the gate: %v", d.Err())
	}
	refused := Proof{Digest: "sha256:f", Kind: "a", Passed: true, At: noon, Refused: "the signature of key x is wrong"}
	d := Gate(c, Facts{Proofs: []Proof{refused}}, noon)
	if d.Open || !strings.Contains(d.Unmet[0].Text, "wrong") {
		t.Errorf("forged evidence: %+v", d)
	}
}

func TestGatePeopleAndTime(t *testing.T) {
	c := Channel{Name: "p", From: "s", Soak: "24h",
		Approvals: &Approvals{Count: 2, Expires: "48h", People: []string{"adam", "eva", "Kai"}}}
	ago := func(h int) time.Time { return noon.Add(-time.Duration(h) * time.Hour) }
	soaked := []Stay{{Since: ago(24)}}
	yes := func(who ...string) (out []Approval) {
		for _, w := range who {
			out = append(out, Approval{Who: w, At: ago(1)})
		}
		return out
	}
	by := []string{"bob"}
	for _, tt := range []struct {
		facts Facts
		want  []Reason
	}{
		{Facts{Stays: soaked, Approvals: yes("adam", "eva"), Authors: by}, nil},
		{Facts{Stays: soaked, Approvals: yes("adam", "adam"), Authors: by}, []Reason{ApprovalMissing}},
		{Facts{Stays: soaked, Approvals: yes("adam", "ADAM "), Authors: by}, []Reason{ApprovalMissing}},
		{Facts{Stays: soaked, Approvals: yes("adam", "mallory"), Authors: by}, []Reason{ApprovalMissing}},
		{Facts{Stays: soaked, Approvals: yes("adam", "eva"), Authors: []string{"Eva"}}, []Reason{ApprovalMissing}},
		{Facts{Stays: soaked, Approvals: yes("adam", "kai"), Authors: []string{"eva"}}, nil},
		{Facts{Stays: soaked, Approvals: yes("adam", "eva")}, []Reason{AuthorUnknown}},
		{Facts{Stays: soaked, Approvals: []Approval{{Who: "adam", At: ago(48)}, {Who: "eva", At: ago(47)}}, Authors: by}, []Reason{ApprovalMissing}},
		{Facts{Approvals: yes("adam", "eva"), Authors: by}, []Reason{NotFrom}},
		{Facts{Stays: []Stay{{Since: ago(23)}}, Approvals: yes("adam", "eva"), Authors: by}, []Reason{Soaking}},
		{Facts{Stays: []Stay{{Since: ago(60), Until: ago(36)}}, Approvals: yes("adam", "eva"), Authors: by}, nil},
		{Facts{Stays: []Stay{{Since: ago(60), Until: ago(37)}, {Since: ago(20)}}, Approvals: yes("adam", "eva"), Authors: by}, []Reason{Soaking}},
		{Facts{Stays: []Stay{{Since: ago(60), Until: ago(30), RolledBack: true}}, Approvals: yes("adam", "eva"), Authors: by}, []Reason{NotFrom}},
		{Facts{Stays: []Stay{{Since: ago(90), Until: ago(60)}, {Since: ago(50), Until: ago(20), RolledBack: true}}, Approvals: yes("adam", "eva"), Authors: by}, []Reason{NotFrom}},
		{Facts{Stays: soaked, Approvals: yes("adam", "eva"), Authors: by, Stops: []Stop{{What: "hold", On: "p", Who: "kai", Why: "wait", Since: ago(1)}}}, []Reason{Held}},
		{Facts{Stays: soaked, Approvals: yes("adam", "eva"), Authors: by, Stops: []Stop{{What: "freeze", On: "all", Who: "kai", Why: "outage", Until: noon.Add(time.Minute)}}}, []Reason{Frozen}},
		{Facts{Stays: soaked, Approvals: yes("adam", "eva"), Authors: by, Stops: []Stop{{What: "freeze", On: "all", Who: "kai", Why: "outage", Until: noon}}}, nil},
		{Facts{Stops: []Stop{{What: "rollback", On: "p", Who: "kai", Why: "slow"}}}, []Reason{NotFrom, AuthorUnknown, ApprovalMissing, Held}},
	} {
		var got []Reason
		d := Gate(&c, tt.facts, noon)
		for _, u := range d.Unmet {
			got = append(got, u.Reason)
			if u.Text == "" || strings.Contains(u.Text, "\n") {
				t.Errorf("%s: text %q", u.Reason, u.Text)
			}
		}
		if !slices.Equal(got, tt.want) || d.Open != (len(tt.want) == 0) {
			t.Errorf("Gate(%+v) = %v %q; want %v", tt.facts, d.Open, got, tt.want)
		}
	}
}

func TestWindow(t *testing.T) {
	weekend := Window{Weekly: "fri 16:00 - mon 08:00", Zone: "Europe/Berlin"}
	night := Window{Weekly: "wed 22:00 - wed 06:00"}
	for _, tt := range []struct {
		w     Window
		at    string
		until string // empty: not frozen
	}{
		{weekend, "2026-11-20 14:59", ""},
		{weekend, "2026-11-20 15:00", "2026-11-23 07:00"},
		{weekend, "2026-11-22 12:00", "2026-11-23 07:00"},
		{weekend, "2026-11-23 06:59", "2026-11-23 07:00"},
		{weekend, "2026-11-23 07:00", ""},
		{weekend, "2026-10-25 12:00", "2026-10-26 07:00"}, // summer time ends that Sunday
		{weekend, "2026-03-29 12:00", "2026-03-30 06:00"}, // and begins
		{night, "2026-11-26 12:00", "2026-12-02 06:00"},   // nearly all the week
		{night, "2026-11-25 12:00", ""},
		{Window{From: "2026-12-20", Until: "2027-01-04"}, "2026-12-19 23:59", ""},
		{Window{From: "2026-12-20", Until: "2027-01-04"}, "2026-12-20 00:00", "2027-01-04 00:00"},
		{Window{From: "2026-12-20", Until: "2027-01-04"}, "2027-01-04 00:00", ""},
		{Window{From: "2026-12-20 12:00", Until: "2026-12-20 13:00", Zone: "Asia/Tokyo"}, "2026-12-20 03:30", "2026-12-20 04:00"},
	} {
		at, err := time.Parse("2006-01-02 15:04", tt.at)
		if err != nil {
			t.Fatal(err)
		}
		_, until, frozen := tt.w.at(at)
		got := ""
		if frozen {
			got = until.UTC().Format("2006-01-02 15:04")
		}
		if got != tt.until {
			t.Errorf("%s at %s: until %q; want %q", tt.w.text(), tt.at, got, tt.until)
		}
	}
	if _, _, frozen := (Window{Weekly: "nonsense"}).at(noon); !frozen {
		t.Error("a window that makes no sense lets something in")
	}
}

// world draws a policy and facts about an image.
func world(t *rapid.T) (*Channel, Facts) {
	kinds := []string{"a", "b", "c"}
	people := []string{"adam", "eva", "kai"}
	pick := func(list []string, label string) []string {
		return slices.Compact(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.SampledFrom(list), 0, 3).Draw(t, label))))
	}
	c := &Channel{Name: "p", Reruns: rapid.SampledFrom([]string{"", "count", "refuse"}).Draw(t, "reruns"),
		SignedBy: pick([]string{"k.pub"}, "signed-by")}
	for range rapid.IntRange(0, 2).Draw(t, "requirements") {
		c.Requires = append(c.Requires, rapid.SliceOfN(rapid.SampledFrom(kinds), 1, 2).Draw(t, "any"))
	}
	if rapid.Bool().Draw(t, "from") {
		c.From, c.Soak = "s", rapid.SampledFrom([]string{"", "1h", "1d"}).Draw(t, "soak")
	}
	if rapid.Bool().Draw(t, "approvals") {
		c.Approvals = &Approvals{Count: rapid.IntRange(1, 2).Draw(t, "count"), People: people}
	}
	f := Facts{Image: "sha256:0", Authors: pick(people, "authors")}
	for range rapid.IntRange(0, 5).Draw(t, "proofs") {
		f.Proofs = append(f.Proofs, proof(t, kinds))
	}
	for _, w := range pick(people, "approved") {
		f.Approvals = append(f.Approvals, Approval{Who: w, At: noon})
	}
	if rapid.Bool().Draw(t, "stayed") {
		f.Stays = []Stay{{Since: noon.Add(-time.Duration(rapid.IntRange(0, 48).Draw(t, "hours")) * time.Hour)}}
	}
	return c, f
}

func proof(t *rapid.T, kinds []string) Proof {
	return Proof{ID: fmt.Sprint(rapid.Uint64().Draw(t, "id")), Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Variant: rapid.SampledFrom([]string{"", "uefi"}).Draw(t, "variant"),
		Passed: rapid.Bool().Draw(t, "passed"), Rerun: rapid.Bool().Draw(t, "rerun"),
		At:      noon.Add(time.Duration(rapid.IntRange(-5, 1).Draw(t, "at")) * time.Hour),
		Signers: rapid.SampledFrom([][]string{nil, {"k.pub"}}).Draw(t, "signers")}
}

// What speaks against an image never opens a gate; what is not there neither.
func TestGateProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, f := world(t)
		before := Gate(c, f, noon)
		if before.Open != (len(before.Unmet) == 0) {
			t.Fatalf("open %v with %v", before.Open, before.Unmet)
		}
		worse := f
		switch rapid.IntRange(0, 5).Draw(t, "worse") {
		case 0:
			p := proof(t, []string{"a", "b", "c"})
			p.Passed, p.At = false, noon
			worse.Proofs = append(slices.Clone(f.Proofs), p)
		case 1: // an author is known more, and somebody is known already
			if len(f.Authors) == 0 {
				return
			}
			worse.Authors = append(slices.Clone(f.Authors), "eva")
		case 2:
			worse.Stops = append(slices.Clone(f.Stops), Stop{What: "hold", On: "p", Who: "eva", Why: "?"})
		case 3:
			worse.Approvals = nil
		case 4: // something is not believed
			worse.Proofs = slices.Clone(f.Proofs)
			for i := range worse.Proofs {
				if worse.Proofs[i].Passed {
					worse.Proofs[i].Refused = "forged"
				}
			}
		case 5: // what was there already is attached once more
			if len(f.Proofs) == 0 {
				return
			}
			worse.Proofs = append(slices.Clone(f.Proofs), rapid.SampledFrom(f.Proofs).Draw(t, "replayed"))
		}
		if after := Gate(c, worse, noon); after.Open && !before.Open {
			t.Fatalf("%+v opened by %+v: it was %v", c, worse, before.Unmet)
		}
	})
}

// No approval of an author counts, and nobody's twice.
func TestGateAuthors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c, f := world(t)
		d := Gate(c, f, noon)
		seen := map[string]bool{}
		for _, a := range d.Approvals {
			if slices.Contains(f.Authors, a.Who) || seen[a.Who] {
				t.Fatalf("the approval of %s counted; authors %v", a.Who, f.Authors)
			}
			seen[a.Who] = true
		}
		if d.Open && c.Approvals != nil && len(seen) < c.Approvals.Count {
			t.Fatalf("open with %d approvals of %d", len(seen), c.Approvals.Count)
		}
	})
}
