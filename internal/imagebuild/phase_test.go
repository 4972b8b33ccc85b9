package imagebuild

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/command"
)

const noteHook = "#!/bin/sh\necho \"$(basename \"$(dirname \"$0\")\")\" >>\"$NOTES\"\n"

// All phases run, in order, those of the image inside it.
func TestPhases(t *testing.T) {
	files := map[string]string{"noter/element-deps": "tiny\n"}
	for _, p := range phases[1:] {
		hook := noteHook
		if p.inside {
			hook = "#!/bin/sh\n[ -f /bin/busybox ]\n[ -d /tmp/in_target.d/root.d ]\necho " + p.name + " >>/notes\n"
		}
		files["noter/"+p.name+"/50-note*"] = hook
	}
	files["noter/cleanup.d/60-compare*"] = "#!/bin/sh\ncat \"$TARGET_ROOT/notes\" >\"$NOTES.inside\"\n"
	opts := Options{Out: t.TempDir(), Elements: tiny(t, files), Cache: t.TempDir()}
	notes := filepath.Join(t.TempDir(), "notes")
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	def := &Definition{Name: "i", Version: "0", Arch: "amd64", Release: "test", Elements: []string{"noter"},
		Outputs: []string{"erofs"}, Environment: map[string]string{"NOTES": notes}}
	opts.Progress, _ = progress(t)
	if _, err := Build(t.Context(), def, opts); err != nil {
		t.Fatal(err)
	}
	// There is no block device, so block-device.d has nothing to do.
	if got, want := fields(t, notes), "extra-data.d post-root.d pre-finalise.d cleanup.d"; got != want {
		t.Errorf("on the host: %s; want %s", got, want)
	}
	if got, want := fields(t, notes+".inside"), "pre-install.d install.d post-install.d finalise.d"; got != want {
		t.Errorf("inside: %s; want %s", got, want)
	}
}

func fields(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

// build builds an image of the element probe with an environment.
func buildProbe(t *testing.T, files, env map[string]string, limit time.Duration) (string, error) {
	t.Helper()
	all := map[string]string{"probe/element-deps": "tiny\n"}
	for k, v := range files {
		all["probe/"+k] = v
	}
	out := t.TempDir()
	opts := Options{Out: out, Elements: tiny(t, all), Cache: t.TempDir(), HookTimeout: limit}
	opts.Progress, _ = progress(t)
	def := &Definition{Name: "i", Version: "0", Arch: "amd64", Release: "test", Elements: []string{"probe"},
		Outputs: []string{"erofs"}, Environment: env}
	_, err := Build(t.Context(), def, opts)
	log, readErr := os.ReadFile(filepath.Join(out, "i.build.log"))
	if readErr != nil {
		t.Fatal(readErr)
	}
	if left, _ := filepath.Glob(filepath.Join(opts.Cache, "work", "build-*")); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
	return string(log), err
}

// A build stops where it is asked to, inside the tree or not.
func TestBreak(t *testing.T) {
	const where = "if [ -d /tmp/in_target.d ]; then echo in the tree; else echo on the host; fi"
	for _, c := range []struct {
		point, outside, want string
		fails                bool
	}{
		{"before-extra-data", "", "At stage before-extra-data\non the host\nResuming", false},
		{"x,before-install,y", "", "At stage before-install\nin the tree\nResuming", false},
		{"after-error", "", "At stage after-error\nin the tree\nResuming", true},
		{"after-error", "1", "At stage after-error\non the host\nResuming", true},
	} {
		files := map[string]string{"extra-data.d/10-x*": "#!/bin/sh\n", "install.d/10-x*": "#!/bin/sh\n"}
		if c.fails {
			files["install.d/10-x*"] = "#!/bin/sh\nexit 3\n"
		}
		log, err := buildProbe(t, files, map[string]string{
			"break": c.point, "break_cmd": where, "break_outside_target": c.outside,
		}, 0)
		if (err != nil) != c.fails || !strings.Contains(log, c.want) {
			t.Errorf("break=%s: %v; log:\n%s\nwant %s", c.point, err, log, c.want)
		}
	}
}

// A break point's command that fails ends the build.
func TestBreakFails(t *testing.T) {
	_, err := buildProbe(t, map[string]string{"install.d/10-x*": "#!/bin/sh\n"},
		map[string]string{"break": "before-install", "break_cmd": "exit 4"}, 0)
	if err == nil || !strings.Contains(err.Error(), "before-install: sh: exit status 4") {
		t.Errorf("error %v", err)
	}
}

// A hook that hangs is ended, with all that it started, and named.
func TestHookTimeout(t *testing.T) {
	for _, dir := range []string{"extra-data.d", "install.d"} {
		_, err := buildProbe(t, map[string]string{dir + "/10-hangs*": "#!/bin/sh\nsleep 600 & sleep 600\n"}, nil, 300*time.Millisecond)
		want := "element probe: " + dir + "/10-hangs: not finished after 300ms (--hook-timeout)"
		if err == nil || !strings.Contains(err.Error(), want) || command.Status(err) != command.StatusFailed {
			t.Errorf("%s: %v; want %s", dir, err, want)
		}
	}
}

func TestDeclared(t *testing.T) {
	got := declared(map[string]string{"DIB_B": `a "b" $c \ ` + "`d`", "DIB_A": "", "OTHER": "x"})
	want := "declare -x DIB_A=\"\"\n" + `declare -x DIB_B="a \"b\" \$c \\ ` + "\\`d\\`\""
	if got != want {
		t.Errorf("declared:\n%s\nwant\n%s", got, want)
	}
}
