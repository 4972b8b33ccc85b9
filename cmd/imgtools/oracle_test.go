package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

const dib = "/usr/lib/python3/dist-packages/diskimage_builder"

// originals copies the originals' tools into a directory, with the paths of
// the system below root, beside a package manager that only notes how it is
// called, and puts the directory first in PATH. It returns the note's path.
func originals(t *testing.T, root string) (bin, note string) {
	t.Helper()
	testenv.NeedFile(t, "/usr/bin/python3")
	testenv.NeedFile(t, dib)
	bin, note = t.TempDir(), filepath.Join(t.TempDir(), "note")
	for _, tool := range []string{
		"elements/pkg-map/bin/pkg-map", "elements/svc-map/bin/svc-map", "elements/dpkg/bin/install-packages",
		"elements/package-installs/bin/package-installs-v2", "lib/dib-run-parts",
	} {
		b, err := os.ReadFile(filepath.Join(dib, tool))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/usr/share/", root+"/usr/share/", "'/lib/systemd", "'"+root+"/lib/systemd", "'/etc/init/", "'"+root+"/etc/init/").Replace(string(b))
		write(t, filepath.Join(bin, filepath.Base(tool)), text)
	}
	write(t, filepath.Join(bin, "apt-get"), "#!/bin/sh\nprintf '%s\\n' \"$@\" | grep -v '^--\\|^Dpkg' >"+note+"\nexit ${APT_STATUS:-0}\n")
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return bin, note
}

// outcome is what a tool did: its status, what it printed where that is
// the tool's purpose, and how it called the package manager.
type outcome struct {
	status    int
	out, note string
}

func (o *outcome) noted(t *testing.T, note string) {
	t.Helper()
	b, err := os.ReadFile(note)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	words := strings.Fields(string(b))
	if len(words) > 1 {
		slices.Sort(words[1:]) // the order is random in the original, and names may come twice
	}
	o.note = strings.Join(slices.Compact(words), " ")
	_ = os.Remove(note)
}

// TestOriginals runs the originals and ours with the same arguments.
func TestOriginals(t *testing.T) {
	root := system(t)
	bin, note := originals(t, root)
	hooks := filepath.Join(root, "hooks.d")
	for _, name := range []string{"10-b", "9-a", "x.sh", "-5neg", "_z", "2x"} {
		write(t, filepath.Join(hooks, name), "#!/bin/sh\n")
	}
	write(t, filepath.Join(root, "fails.d/1-x"), "#!/bin/sh\nexit 7\n")
	write(t, filepath.Join(root, "empty.d/.keep"), "")
	nova := "--pkg-map " + root + "/usr/share/pkg-map/nova"
	equal := 0
	for _, args := range []string{
		"pkg-map --element nova api doc db", "pkg-map --element nova --prefix - api", "pkg-map --elem nova --dist ubuntu api",
		"pkg-map --element=nova api none db", "pkg-map --element nova api none db --missing-ok", "pkg-map --element nova --missing-ok -x --yy db",
		"pkg-map --element none a", "pkg-map --element none --missing-ok a", "pkg-map --element broken a", "pkg-map a", "pkg-map --element",
		"pkg-map --element nova " + nova + " a", "pkg-map " + nova + " db", "pkg-map --element nova", "pkg-map --element nova --missing-ok=1 a",
		"pkg-map --p x a", "pkg-map --element nova --distro", "pkg-map --element nova --release --debug db",
		"svc-map api unit other -h", "svc-map",
		"package-installs-v2 --phase install.d PLAN", "package-installs-v2 --phase install.d --uninstall PLAN", "package-installs-v2 --phase pre-install.d PLAN",
		"package-installs-v2 --phase install.d BROKEN", "package-installs-v2 --phase install.d -n PLAN", "package-installs-v2 --phase install.d NONE",
		"package-installs-v2 PLAN", "package-installs-v2 --phase x", "package-installs-v2 --phase x --what PLAN", "package-installs-v2 --ph=install.d --un PLAN",
		"APT_STATUS=7 package-installs-v2 --phase install.d PLAN",
		"install-packages", "install-packages a b", "install-packages -e a", "install-packages a -e", "install-packages -em nova api", "install-packages -mnova db doc",
		"install-packages -m nova none", "install-packages -m none a", "install-packages -m", "install-packages -x", "install-packages --nonsense a", "install-packages -u a",
		"APT_STATUS=7 install-packages a", "APT_STATUS=7 install-packages -u",
		"dib-run-parts", "dib-run-parts --list", "dib-run-parts --list " + hooks, "dib-run-parts " + hooks, "dib-run-parts " + root + "/none",
		"dib-run-parts " + root + "/fails.d", "dib-run-parts --list " + root + "/empty.d", "dib-run-parts " + root + "/empty.d",
		"RUN_PARTS_REGEX=^[x2] dib-run-parts --list " + hooks,
	} {
		words := strings.Fields(strings.NewReplacer("PLAN", root+"/plan.json", "BROKEN", root+"/broken.json", "NONE", root+"/none.json").Replace(args))
		env := map[string]string{"DISTRO_NAME": "debian"}
		if name, value, ok := strings.Cut(words[0], "="); ok {
			env[name] = value
			words = words[1:]
		}
		if ours, theirs := ourOutcome(t, root, note, env, words), theirOutcome(t, bin, note, env, words); ours != theirs {
			t.Errorf("%s:\n         ours %+v\nthe original %+v", args, ours, theirs)
			continue
		}
		equal++
	}
	testenv.Proof(t, testenv.Row{Matter: "arguments and statuses of the tools", Equal: equal})
}

func ourOutcome(t *testing.T, root, note string, env map[string]string, words []string) outcome {
	t.Helper()
	for n, v := range env {
		t.Setenv(n, v)
	}
	if env["APT_STATUS"] == "" {
		t.Setenv("APT_STATUS", "0")
	}
	var o outcome
	o.status, o.out, _ = call(root, env, words...)
	o.out = comparable(words, o.out)
	o.noted(t, note)
	return o
}

func theirOutcome(t *testing.T, bin, note string, env map[string]string, words []string) outcome {
	t.Helper()
	var out, errs bytes.Buffer
	all := []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	for n, v := range env {
		all = append(all, n+"="+v)
	}
	err := command.Exec{
		Args: append([]string{filepath.Join(bin, words[0])}, words[1:]...), Env: all, Stdout: &out, Log: &errs,
	}.Run(context.Background())
	o := outcome{out: comparable(words, out.String())}
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		o.status = x.Status
	} else if err != nil {
		t.Fatalf("%v: %v", words, err)
	}
	o.noted(t, note)
	return o
}

// comparable is standard output where other programs read it; the rest is
// for people.
func comparable(words []string, out string) string {
	switch {
	case words[0] == "pkg-map" || words[0] == "svc-map" || slices.Contains(words, "--list"):
		return out
	case slices.Contains(words, "-n"):
		lines := strings.Split(strings.TrimSpace(out), "\n")
		last := strings.Fields(lines[len(lines)-1])
		slices.Sort(last)
		return strings.Join(slices.Compact(last), " ")
	}
	return ""
}
