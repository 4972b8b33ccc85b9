package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/attest"
	"goldsmith/internal/evidence"
	"goldsmith/internal/promotion"
	"goldsmith/internal/registry"
	"goldsmith/internal/store"
	"goldsmith/internal/trust"
	"goldsmith/pipeline/step"
)

// scriptCommands are what scripts can do beside running programs.
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"waitfor": waitFor, "waitport": waitPort, "waitrun": waitRun, "image": scriptImage, "tested": scriptTested, "keys": scriptKeys,
}

// scriptImage is "image VARIABLE VERSION [AUTHOR]": it puts an image into
// .goldsmith and its digest into the variable.
func scriptImage(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(".goldsmith")
	s, err := step.OpenStore(dir)
	ts.Check(err)
	disk := bytes.Repeat([]byte(args[1]+"\n"), 3000)
	path := ts.MkAbs("disk.raw")
	ts.Check(os.WriteFile(path, disk, 0o644))
	sum := sha256.Sum256(disk)
	digest, _, err := s.Images.PutImage(context.Background(), path, registry.Image{Name: "demo", Version: args[1], Arch: "amd64",
		Size: int64(len(disk)), SHA256: hex.EncodeToString(sum[:])})
	ts.Check(err)
	if len(args) > 2 {
		db, err := store.Open(context.Background(), filepath.Join(dir, "imgpipe.db"))
		ts.Check(err)
		ts.Check(promotion.New(db, s.Images).Authored(context.Background(), digest, args[2]))
		ts.Check(db.Close())
	}
	ts.Setenv(args[0], digest)
}

// scriptTested is "tested IMAGE KIND pass|fail [KEY]": it attaches evidence.
func scriptTested(ts *testscript.TestScript, _ bool, args []string) {
	s, err := step.OpenStore(ts.MkAbs(".goldsmith"))
	ts.Check(err)
	e := &evidence.Evidence{Kind: args[1], Subject: args[0], Result: evidence.Result(args[2]), Run: "1", Stage: "smoke", Attempt: 1,
		Started: time.Unix(1e9, 0).UTC(), Ended: time.Unix(1e9, 0).UTC(), Tests: []evidence.Test{{Name: "a", Result: evidence.Result(args[2])}}}
	var keys []*trust.PrivateKey
	if len(args) > 3 {
		k, err := trust.ReadPrivate(ts.MkAbs(args[3]))
		ts.Check(err)
		keys = append(keys, k)
	}
	_, err = attest.AttachEvidence(s.Images, e, keys...)
	ts.Check(err)
}

// scriptKeys is "keys NAME": it makes NAME.key and NAME.pub.
func scriptKeys(ts *testscript.TestScript, _ bool, args []string) {
	k, err := trust.NewKey(true)
	ts.Check(err)
	text, err := k.PEM()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".key"), text, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".pub"), k.Public.PEM(), 0o644))
}
