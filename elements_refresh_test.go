package goldsmith_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// build makes one of our programs for the image.
func (im *image) build(t *testing.T, program string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", im.dir+"/bin/"+program, "./cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

// A machine with the elements refreshcfg and heat-config runs its hooks under
// the originals' names, from the directories where the elements put them.
func TestElementRefreshcfg(t *testing.T) {
	im := newImage(t, []string{"heat-config"}, map[string]string{
		"os-refresh-config/configure.d/10-say": "#!/bin/bash\n## goldsmith: {\"timeout\": \"1m\"}\necho said $WORD\n",
		"os-refresh-config/environment.d/10-x": "export WORD=hello\n",
	})
	im.build(t, "refreshcfg")
	if err := im.run(t, buildPhases...); err != nil {
		t.Fatal(err)
	}
	const hooks = "/usr/libexec/os-refresh-config/configure.d"
	for _, c := range []struct{ line, want string }{
		{"os-refresh-config --print-base", "/usr/libexec/os-refresh-config\n"},
		{"dib-run-parts --list " + hooks, hooks + "/10-say\n" + hooks + "/55-heat-config\n"},
		{"refreshcfg check", ""},
		{"os-refresh-config --lockfile /tmp/lock", "said hello\n"}, // and no deployments
		{"refreshcfg --lockfile /tmp/lock --state /tmp/state", "said hello\n"},
	} {
		cmd := exec.Command("chroot", append([]string{im.root}, strings.Fields(c.line)...)...)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "OS_CONFIG_FILES="}
		var log strings.Builder
		cmd.Stderr = &log
		if out, err := cmd.Output(); err != nil || string(out) != c.want {
			t.Errorf("%s: %q, %v; want %q\n%s", c.line, out, err, c.want, &log)
		}
	}
	for path, want := range map[string]string{
		"/usr/bin/os-refresh-config": "-> refreshcfg", "/usr/bin/dib-run-parts": "-> refreshcfg",
	} {
		if got := im.file(path); got != want {
			t.Errorf("%s: %q; want %q", path, got, want)
		}
	}
	if got := im.file("/usr/libexec/heat-config/hooks/ansible"); !strings.HasPrefix(got, "#!/bin/bash\n") {
		t.Errorf("the hook for ansible: %q", got)
	}
}

// Where diskimage-builder's script is wanted, it stays; a header that is wrong
// ends the build.
func TestElementRefreshcfgRefuses(t *testing.T) {
	im := newImage(t, []string{"refreshcfg", "dib-run-parts"}, map[string]string{
		"os-refresh-config/configure.d/10-say": "#!/bin/bash\n## goldsmith: {\"timeout\": 1}\n",
	})
	im.build(t, "refreshcfg")
	if err := im.run(t, buildPhases...); err == nil || !strings.Contains(im.log.String(), `10-say: header: line 2: "timeout"`) {
		t.Errorf("run = %v; want the hook and its line", err)
	}
	if got := im.file("/usr/bin/dib-run-parts"); !strings.HasPrefix(got, "#!/bin/bash\n") {
		t.Errorf("dib-run-parts: %.40q", got)
	}
}
