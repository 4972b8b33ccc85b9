package goldsmith_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The element imgupdate takes a deadline that 'imgupdate watch' takes, and
// refuses the image otherwise.
func TestUpdateDeadline(t *testing.T) {
	bin := t.TempDir()
	// The hook's first change of the image ends it here.
	if err := os.WriteFile(filepath.Join(bin, "install"), []byte("#!/bin/sh\nexit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for deadline, fine := range map[string]bool{
		"15m": true, "1h": true, "90s": true, "1h30m": true, "1h0m10s": true,
		"": false, "hms": false, "15": false, "m": false, "0s": false, "0h0m": false, "15m1": false, "1m1h": false, "-5m": false,
		"1 m": false, "1d": false, "999999999999h": false, "15m\n": false,
	} {
		cmd := exec.Command("bash", "elements/imgupdate/post-install.d/50-imgupdate")
		cmd.Env = []string{"PATH=" + bin, "IMGUPDATE_DEADLINE=" + deadline}
		out, _ := cmd.CombinedOutput() // the status says
		if status := cmd.ProcessState.ExitCode(); fine != (status == 7) || !fine && !strings.Contains(string(out), "want a duration") {
			t.Errorf("IMGUPDATE_DEADLINE=%q: status %d, %q", deadline, status, out)
		}
	}
}
