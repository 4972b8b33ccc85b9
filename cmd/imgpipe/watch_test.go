package main

import (
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
	"goldsmith/pipeline"
)

func TestTree(t *testing.T) {
	at := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	end := at.Add(90 * time.Second)
	r := &pipeline.Run{ID: "7", Pipeline: "demo", Status: pipeline.Running, Started: at, Stages: []*pipeline.StageRun{
		{Name: "build", Status: pipeline.Passed, Attempts: []pipeline.Attempt{{Started: at, Ended: &end}}},
		{Name: "smoke", Needs: []string{"build"}, Status: pipeline.Running, Attempts: []pipeline.Attempt{{Started: at, Ended: &end}, {Started: end, Worker: "w1", Progress: "[3 of 9] boot 40 %"}}, Node: "n3"},
		{Name: "metal", Needs: []string{"build"}, Status: pipeline.Ready, Reason: "no worker has bmc-net"},
		{Name: "promote", Needs: []string{"smoke", "metal"}, Status: pipeline.Todo},
	}}
	want := `run 7  demo  running  2m0s
└─ ✓ build  passed  1m30s
   ├─ ▶ smoke  running  30s  attempt 2  w1  n3  [3 of 9] boot 40 %
   └─ ○ metal  ready  no worker has bmc-net
      └─ · promote  todo`
	if got := strings.Join(tree(r, at.Add(2*time.Minute)), "\n"); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := command.Fit("äöü", 2); got != "ä…" {
		t.Error(got)
	}
}
