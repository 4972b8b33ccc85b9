package main

import (
	"bytes"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/refreshcfg"
)

func TestPlanOfReturn(t *testing.T) {
	var out bytes.Buffer
	err := printPlan(command.IO{Stdout: &out}, refreshcfg.Plan{
		Image: refreshcfg.Image{Name: "web", Version: "1"},
		Back:  []refreshcfg.Migration{{Phase: "migration", Name: "2-n", Paths: []string{"/a", "/b"}}},
		Stay:  []refreshcfg.Migration{{Phase: "migration", Name: "1-m", Paths: []string{"/c"}}},
	})
	const want = "image  web 1\nback   migration/2-n  /a /b\nstay   migration/1-m  /c (no copies)\n"
	if err != nil || out.String() != want {
		t.Errorf("%v\n%s; want\n%s", err, out.String(), want)
	}
}
