package testbedtest

import "testing"

func TestFake(t *testing.T) { Run(t, Driver{NewWith: NewFake, ShellDisk: FakeShellDisk}) }
