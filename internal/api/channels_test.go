package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/promotion"
	"goldsmith/internal/registry"
	"goldsmith/internal/store/storetest"
	"goldsmith/pipeline"
)

// A channel moves over HTTP as its policy allows, by those whose role suffices.
func TestChannels(t *testing.T) {
	db := storetest.Open(t, storetest.Where(t, "sqlite"))
	h := open(t, db)
	images, err := registry.Open(filepath.Join(h.dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	disk := bytes.Repeat([]byte("disk\n"), 3000)
	path := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(path, disk, 0o644); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(disk)
	image, _, err := images.PutImage(t.Context(), path, registry.Image{Name: "demo", Version: "1", Arch: "amd64", Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		t.Fatal(err)
	}
	h.server.Book = promotion.New(db, images)
	c := &pipeline.Channel{Name: "production", Approvals: &pipeline.Approvals{Count: 1, Of: []string{"eva", "op"}, People: []string{"eva", "op"}}}
	h.server.Policies = func() ([]*promotion.Policy, error) {
		p, err := promotion.NewPolicy(c, h.dir)
		return []*promotion.Policy{p}, err
	}
	if err := h.server.Book.Authored(t.Context(), image, "op"); err != nil {
		t.Fatal(err)
	}
	op, eva := h.client("op", Operator), h.client("eva", Approver)
	move := `{"image": "` + image + `", "why": "release 1"}`
	status, body := h.do("POST", "/v1/channels/production/promote", op.token, strings.NewReader(move))
	var no Refusal
	if err := json.Unmarshal([]byte(body), &no); err != nil || status != http.StatusUnprocessableEntity || len(no.Decision.Unmet) != 1 {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := h.do("POST", "/v1/channels/production/approve", op.token, strings.NewReader(`{"image": "`+image+`"}`)); status != http.StatusForbidden {
		t.Errorf("an operator approves: %d", status)
	}
	if status, body := h.do("POST", "/v1/channels/production/approve", eva.token, strings.NewReader(`{"image": "`+image+`"}`)); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := h.do("POST", "/v1/channels/production/promote", eva.token, strings.NewReader(move)); status != http.StatusForbidden {
		t.Errorf("an approver promotes: %d", status)
	}
	freeze := Stopping{Why: "holidays", Until: time.Now().Add(time.Hour)}
	if err := op.Call(t.Context(), "POST", "/v1/channels/production/freeze", freeze, nil, time.Minute); err != nil {
		t.Error(err)
	}
	if status, _ := h.do("POST", "/v1/channels/production/promote", op.token, strings.NewReader(move)); status != http.StatusUnprocessableEntity {
		t.Errorf("into a frozen channel: %d", status)
	}
	if err := op.Call(t.Context(), "POST", "/v1/channels/production/thaw", Reason{"back"}, nil, time.Minute); err != nil {
		t.Error(err)
	}
	var m promotion.Move
	if err := op.Call(t.Context(), "POST", "/v1/channels/production/promote", Promotion{image, "release 1"}, &m, time.Minute); err != nil || m.Who != "op" {
		t.Errorf("%+v, %v", m, err)
	}
	var states []promotion.State
	if err := eva.Call(t.Context(), "GET", "/v1/channels", nil, &states, time.Minute); err != nil || len(states) != 1 || states[0].Image != image {
		t.Errorf("%+v, %v", states, err)
	}
	if status, _ := h.do("POST", "/v1/channels/nothere/promote", op.token, strings.NewReader(move)); status != 400 {
		t.Errorf("%d", status)
	}
	for _, hold := range []string{image, "production"} {
		if err := op.Call(t.Context(), "POST", "/v1/holds/"+hold, Stopping{Why: "wait"}, nil, time.Minute); err != nil {
			t.Error(err)
		}
		if err := op.Call(t.Context(), "POST", "/v1/holds/"+hold+"/release", Reason{"go on"}, nil, time.Minute); err != nil {
			t.Error(err)
		}
	}
}
