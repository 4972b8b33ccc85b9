package promotion

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"goldsmith/internal/attest"
	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
	"goldsmith/internal/store/storetest"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

func TestMain(m *testing.M) { os.Exit(storetest.Main(m)) }

// desk is a book with a clock that tests set.
type desk struct {
	*Book
	t  *testing.T
	at time.Time
}

func newDesk(t *testing.T, db *store.DB) *desk {
	t.Helper()
	l, err := registry.Open(filepath.Join(t.TempDir(), "oci"))
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{Book: New(db, l), t: t, at: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
	d.now = func() time.Time { return d.at }
	d.lease = 200 * time.Millisecond
	return d
}

// image puts an image into the layout.
func (d *desk) image(version string) string {
	d.t.Helper()
	disk := bytes.Repeat([]byte(version+"\n"), 3000)
	path := filepath.Join(d.t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		d.t.Fatal(err)
	}
	sum := sha256.Sum256(disk)
	digest, _, err := d.images.PutImage(d.t.Context(), path, registry.Image{Name: "demo", Version: version, Arch: "amd64",
		Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		d.t.Fatal(err)
	}
	return digest
}

// evidence attaches evidence to an image.
func (d *desk) evidence(image, kind string, result evidence.Result, keys ...*trust.PrivateKey) {
	d.t.Helper()
	e := &evidence.Evidence{Kind: kind, Subject: image, Result: result, Run: "1", Stage: "smoke", Attempt: 1, Ended: d.at,
		Tests: []evidence.Test{{Name: "a", Result: result}}}
	if _, err := attest.AttachEvidence(d.images, e, keys...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) policy(c pipeline.Channel) *Policy {
	d.t.Helper()
	p, err := NewPolicy(&c, d.t.TempDir())
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *desk) held(channel string) string {
	d.t.Helper()
	tags, err := d.images.Tags()
	if err != nil {
		d.t.Fatal(err)
	}
	return tags[channel]
}

func (d *desk) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *desk) refused(err error, why string) {
	d.t.Helper()
	if _, ok := errors.AsType[*pipeline.Refusal](err); !ok || !strings.Contains(err.Error(), why) {
		d.t.Fatalf("the error is %v; want a refusal with %q", err, why)
	}
}

func key(t *testing.T) *trust.PrivateKey {
	t.Helper()
	k, err := trust.NewKey(true)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var eva, adam = Word{"eva", "it is time"}, Word{"adam", "looks well"}

// An image goes from candidate to staging to production, is rolled back, and
// stays back until it is released.
func TestStory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, d := t.Context(), newDesk(t, db)
		staging := d.policy(pipeline.Channel{Name: "staging", Requires: []pipeline.Requirement{{"libvirt-smoke"}}})
		production := d.policy(pipeline.Channel{Name: "production", From: "staging", Soak: "24h",
			Approvals: &pipeline.Approvals{Count: 1, People: []string{"adam", "eva"}}})
		production.SignWith(key(t))
		into := func(p *Policy, image string) error {
			_, err := d.Promote(ctx, p, image, eva)
			return err
		}
		first, second := d.image("1"), d.image("2")
		for _, img := range []string{first, second} {
			d.refused(into(staging, img), "missing evidence: libvirt-smoke")
			d.evidence(img, "libvirt-smoke", evidence.Pass)
			d.ok(d.Authored(ctx, img, "eva"))
			d.ok(into(staging, img))
			d.refused(into(production, img), "soaked 0s of 24h in staging, until ")
			d.at = d.at.Add(25 * time.Hour)
			d.ok(d.Approve(ctx, img, "production", eva))
			d.refused(into(production, img), "0 of 1 approvals, missing one of adam")
			d.ok(d.Approve(ctx, img, "production", adam))
			d.ok(into(production, img))
			if got := d.held("production"); got != img {
				t.Fatalf("production holds %s; want %s", got, img)
			}
		}
		m, err := d.Promote(ctx, production, second, eva)
		if err != nil || !m.Already {
			t.Fatalf("the same once more: %+v, %v", m, err)
		}
		if m, err = d.Rollback(ctx, production, adam); err != nil || d.held("production") != first || m.Previous != second {
			t.Fatalf("rolled back: %+v, %v; production holds %s", m, err, d.held("production"))
		}
		d.refused(into(production, second), "production rolled back by adam until it is released: looks well")
		d.ok(d.Release(ctx, "production", eva))
		d.ok(into(production, second))
		if _, err := d.Rollback(ctx, staging, adam); err != nil || d.held("staging") != first {
			t.Fatalf("staging: %v", err)
		}
		if _, err := d.Rollback(ctx, staging, adam); command.Status(err) != command.StatusUsage {
			t.Fatalf("back to nothing: %v", err)
		}
		d.ok(d.Release(ctx, "staging", eva))
		d.said(production, second)
	})
}

// said checks the statements about the image that was promoted last.
func (d *desk) said(p *Policy, image string) {
	d.t.Helper()
	moves, err := d.Moves(d.t.Context(), p.Name)
	d.ok(err)
	m := moves[len(moves)-1]
	refs, err := d.images.Referrers(image, registry.StatementType)
	d.ok(err)
	for _, r := range refs {
		if r.Digest != m.Statement {
			continue
		}
		envelope, err := attest.Envelope(d.images, r)
		d.ok(err)
		s, err := attest.Read(envelope, image, trust.NewPolicy(p.key.Public))
		d.ok(err)
		var said attest.Promotion
		d.ok(s.Decode(attest.PromotionType, &said))
		if said.Channel != p.Name || said.Who != "eva" || said.Why == "" || said.Previous != m.Previous || said.Policy != p.Hash || len(said.Approvals) != 1 || said.Approvals[0].Who != "adam" {
			d.t.Errorf("the statement says %+v", said)
		}
		var envelopes [][]byte
		signatures, err := d.images.Referrers(image, registry.SignatureType)
		d.ok(err)
		for _, r := range signatures {
			e, err := attest.Envelope(d.images, r)
			d.ok(err)
			envelopes = append(envelopes, e)
		}
		if said, err := trust.NewPolicy(p.key.Public).VerifyAny(envelopes, image); err != nil || said.Name != "demo" {
			d.t.Errorf("a machine that trusts the key: %+v, %v", said, err)
		}
		return
	}
	d.t.Errorf("the promotion's statement %q is not attached to %s", m.Statement, image)
}

// People's stops keep images out until they are ended, or their time is over.
func TestStops(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, d := t.Context(), newDesk(t, db)
		p, img := d.policy(pipeline.Channel{Name: "staging"}), d.image("1")
		into := func() error { _, err := d.Promote(ctx, p, img, eva); return err }
		none := time.Time{}
		for _, stop := range []struct {
			begin, end func() error
			why        string
		}{
			{func() error { return d.Hold(ctx, "staging", none, adam) }, func() error { return d.Release(ctx, "staging", eva) }, "staging held by adam until it is released"},
			{func() error { return d.Hold(ctx, img, none, adam) }, func() error { return d.Release(ctx, img, eva) }, "held by adam"},
			{func() error { return d.Freeze(ctx, "", none, adam) }, func() error { return d.Thaw(ctx, "", eva) }, "all frozen by adam until it is thawed: looks well"},
			{func() error { return d.Freeze(ctx, "staging", none, adam) }, func() error { return d.Thaw(ctx, "staging", eva) }, "staging frozen by adam"},
			{func() error { return d.Freeze(ctx, "", d.at.Add(time.Hour), adam) }, func() error { d.at = d.at.Add(time.Hour); return nil }, "until 2026-11-23 13:00 UTC"},
		} {
			d.ok(stop.begin())
			d.refused(into(), stop.why)
			d.ok(stop.end())
			if dec, err := d.Decide(ctx, p, img); err != nil || !dec.Open {
				t.Fatalf("after %q: %+v, %v", stop.why, dec, err)
			}
		}
		d.ok(d.Hold(ctx, "other", none, adam))
		d.ok(d.Freeze(ctx, "other", none, adam))
		d.ok(into())
		for name, err := range map[string]error{
			"nothing to release": d.Release(ctx, "staging", eva), "nothing to thaw": d.Thaw(ctx, "", eva),
			"no reason": d.Hold(ctx, "staging", none, Word{Who: "eva"}), "nobody": d.Freeze(ctx, "", none, Word{Why: "x"}),
			"in the past": d.Freeze(ctx, "", d.at, adam), "two lines": d.Hold(ctx, "staging", none, Word{"eva", "a\nb"}),
		} {
			if command.Status(err) != command.StatusUsage {
				t.Errorf("%s: %v", name, err)
			}
		}
		var events int
		d.ok(db.View(ctx, func(tx *store.Tx) error {
			return tx.QueryRow(ctx, "SELECT COUNT(*) FROM event WHERE kind = 'promotion'").Scan(&events)
		}))
		if events != 12 {
			t.Errorf("%d events in the audit trail", events)
		}
	})
}

// Where a channel has no key, that of evidence signs the word on a move, and
// nothing that a machine would take for a release's signature.
func TestAttested(t *testing.T) {
	d := newDesk(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	p := d.policy(pipeline.Channel{Name: "production"})
	k := key(t)
	p.AttestWith(k)
	img := d.image("1")
	if _, err := d.Promote(t.Context(), p, img, eva); err != nil {
		t.Fatal(err)
	}
	items, err := attest.List(d.images, img, trust.NewPolicy(k.Public))
	d.ok(err)
	if len(items) != 1 || items[0].Type != attest.PromotionType || len(items[0].Signers) != 1 {
		t.Errorf("attached: %+v", items)
	}
}

// A process that dies at any step leaves what the next call finishes.
func TestKilled(t *testing.T) {
	for _, step := range []string{"sign", "tag", "attach", "finish"} {
		t.Run(step, func(t *testing.T) {
			d := newDesk(t, storetest.Open(t, storetest.Where(t, "sqlite")))
			ctx := t.Context()
			p := d.policy(pipeline.Channel{Name: "production"})
			p.SignWith(key(t))
			first, second := d.image("1"), d.image("2")
			d.Book.step = func(name string) error {
				if name == step {
					return errKilled
				}
				return nil
			}
			if _, err := d.Promote(ctx, p, first, eva); !errors.Is(err, errKilled) {
				t.Fatal(err)
			}
			// Another process, which has no key and wants something else.
			other := New(d.db, d.images)
			other.now = func() time.Time { return d.at.Add(time.Hour) }
			unsigned := d.policy(*p.Channel)
			m, err := other.Promote(ctx, unsigned, second, adam)
			if err != nil || !m.Mended || m.Previous != first {
				t.Fatalf("%+v, %v", m, err)
			}
			moves, err := other.Moves(ctx, "production")
			d.ok(err)
			if len(moves) != 2 || moves[0].State != "done" || moves[0].Image != first || moves[1].Image != second {
				t.Fatalf("moves: %+v", moves)
			}
			refs, err := d.images.Referrers(first, "")
			d.ok(err)
			if len(refs) != 2 {
				t.Errorf("%d things are attached to the first image", len(refs))
			}
		})
	}
}

// Of several that promote at once one wins; the others are told, and the
// channel holds what the record says.
func TestConcurrent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		d := newDesk(t, db)
		p := d.policy(pipeline.Channel{Name: "production"})
		const n = 6
		var images []string
		for i := range n {
			images = append(images, d.image(fmt.Sprint(i)))
		}
		begin := make(chan struct{})
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() {
				b := New(db, d.images)
				var once sync.Once
				b.step = func(string) error { once.Do(func() { time.Sleep(20 * time.Millisecond) }); return nil }
				<-begin
				_, errs[i] = b.Promote(context.Background(), p, images[i], Word{fmt.Sprintf("p%d", i), "first"})
			})
		}
		close(begin)
		all.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
			case command.Status(err) != command.StatusBusy || !strings.Contains(err.Error(), "meanwhile: first"):
				t.Errorf("%d: %v", i, err)
			}
		}
		moves, err := d.Moves(t.Context(), "production")
		d.ok(err)
		if won < 1 || len(moves) != won || moves[won-1].Image != d.held("production") {
			t.Errorf("%d won, %d moves, production holds %s", won, len(moves), d.held("production"))
		}
	})
}

// A tag that somebody else has moved is noted, and does not count as a stay.
func TestFoundTag(t *testing.T) {
	d := newDesk(t, storetest.Open(t, storetest.Where(t, "sqlite")))
	ctx := t.Context()
	staging := d.policy(pipeline.Channel{Name: "staging"})
	production := d.policy(pipeline.Channel{Name: "production", From: "staging", Soak: "1h"})
	first, second := d.image("1"), d.image("2")
	_, err := d.Promote(ctx, staging, first, eva)
	d.ok(err)
	d.at = d.at.Add(30 * time.Minute)
	d.ok(d.images.Tag(second, "staging"))
	_, err = d.Promote(ctx, production, second, eva)
	d.refused(err, "it was not in staging")
	d.at = d.at.Add(2 * time.Hour)
	m, err := d.Promote(ctx, staging, first, eva)
	if err != nil || m.Previous != second {
		t.Fatalf("%+v, %v", m, err)
	}
}
