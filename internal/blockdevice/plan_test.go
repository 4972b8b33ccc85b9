package blockdevice

import "testing"

func mustPlan(t *testing.T, config string, p Params) *Plan {
	t.Helper()
	c, err := Parse("config.yaml", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.Plan(p)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}
