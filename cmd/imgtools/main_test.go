package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"goldsmith/internal/command"
)

func TestMain(m *testing.M) {
	programs := map[string]func(){"imgtools": main}
	for _, t := range tools() {
		programs[t.name] = main
	}
	testscript.Main(m, programs)
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

// call runs a tool in a system below root.
func call(root string, env map[string]string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(context.Background(), args[0], args[1:], &caller{
		IO: command.IO{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs}, root: root, env: env,
	})
	return status, out.String(), errs.String()
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
}

const novaMap = `{"distro": {"debian": {"api": "nova-api nova-common", "doc": ""}}, "default": {"api": "openstack-nova", "db": "sqlite3"}}`

// system is a root with maps, a table of services and a plan.
func system(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	write(t, root+"/usr/share/pkg-map/nova", novaMap)
	write(t, root+"/usr/share/pkg-map/broken", "{")
	write(t, root+"/usr/share/svc-map/services", "api: nova-api\nunit: other\n")
	write(t, root+"/lib/systemd/system/unit.service", "")
	write(t, root+"/plan.json", `{"install.d": {"install": [["api", "nova"], ["curl", "base"], ["doc", "nova"], ["nova-api", "x"]], "uninstall": [["db", "nova"]]}}`)
	write(t, root+"/broken.json", `{"install.d": {"install": [["a", "broken"]]}}`)
	return root
}

func TestTools(t *testing.T) {
	root := system(t)
	env := map[string]string{"DISTRO_NAME": "debian"}
	for _, c := range []struct {
		args   string
		status int
		out    string
		err    string // part of
	}{
		{"pkg-map --element nova api doc db", 0, "nova-api nova-common\nsqlite3\n", ""},
		{"pkg-map --element nova --prefix - api", 0, "-nova-api nova-common\n", ""},
		{"pkg-map --elem nova --dist ubuntu api", 0, "openstack-nova\n", ""},
		{"pkg-map --element nova api none db", 1, "nova-api nova-common\n", "no valid mapping for package none"},
		{"pkg-map --element none a", 2, "", "no such package map"},
		{"pkg-map --element none --missing-ok a", 0, "a\n", ""},
		{"pkg-map --element broken a", 1, "", "value is not complete"},
		{"pkg-map a", 1, "", "no element given"},
		{"pkg-map --element", 2, "", "expected one argument"},
		{"pkg-map --pkg-map " + root + "/usr/share/pkg-map/nova db", 0, "sqlite3\n", ""},
		{"imgtools pkg-map --element nova db", 0, "sqlite3\n", ""},
		{"svc-map api unit other -h", 0, "nova-api\nunit\nother\n-h\n", ""},
		{"package-installs-v2 --phase install.d -n " + root + "/plan.json", 0,
			"Map install for base: curl\nMap install for nova: api, doc\nMap install for x: nova-api\ninstall-packages curl nova-api nova-common\n", ""},
		{"package-installs-v2 --phase install.d --uninstall -n " + root + "/plan.json", 0, "Map uninstall for nova: db\ninstall-packages -e sqlite3\n", ""},
		{"package-installs-v2 --phase pre-install.d " + root + "/plan.json", 0, "Nothing to install\n", ""},
		{"package-installs-v2 --phase install.d " + root + "/broken.json", 1, "Map install for broken: a\n", "value is not complete"},
		{"package-installs-v2 --phase install.d -n " + root + "/broken.json", 0, "Map install for broken: a\ninstall-packages a\n", ""},
		{"package-installs-v2 --phase install.d " + root + "/none.json", 1, "", "no such file"},
		{"package-installs-v2 " + root + "/plan.json", 2, "", "--phase is required"},
		{"package-installs-v2 --phase x", 2, "", "expected one file"},
		{"package-installs-v2 --phase x --what f", 2, "", "unrecognized arguments: --what"},
		{"install-packages", 0, "Not running install-packages install with empty packages list\n", ""},
		{"install-packages -e -m nova doc", 0, "Not running install-packages remove with empty packages list\n", ""},
		{"install-packages -m nova none", 1, "", "no valid mapping"},
		{"install-packages -m none a", 1, "", "no such package map"},
		{"install-packages -m", 1, "", "option requires an argument"},
		{"install-packages -x", 1, "", "invalid option -- 'x'"},
		{"install-packages --nonsense a", 1, "", "unrecognized option '--nonsense'"},
		{"dib-run-parts", 1, "", "usage: dib-run-parts [--list] DIRECTORY"},
		{"dib-run-parts --list " + root + "/none", 1, "", "must exist and be a directory"},
	} {
		status, out, errs := call(root, env, strings.Fields(c.args)...)
		if status != c.status || out != c.out || !strings.Contains(errs, c.err) || (c.err == "") != (errs == "") {
			t.Errorf("%s: status %d, %q, %q; want %d, %q, %q", c.args, status, out, errs, c.status, c.out, c.err)
		}
	}
	if _, out, _ := call(root, env, "pkg-map", "--element", "nova", "--prefix", "- ", "db"); out != "- sqlite3\n" {
		t.Errorf("a prefix with a blank: %q", out)
	}
	if status, _, errs := call(root, nil, "pkg-map", "--element", "nova", "api"); status != 1 || !strings.Contains(errs, "no distribution given") {
		t.Errorf("without a distribution: status %d, %q", status, errs)
	}
}

func TestRequest(t *testing.T) {
	for in, want := range map[string]string{
		"a b":          "install a b",
		"-e a":         "remove a",
		"a -e":         "remove a",
		"-m nova a -e": "remove a",
		"-emnova a":    "remove a",
		"-u a":         "dist-upgrade",
		"-eu":          "dist-upgrade",
		"-ue":          "dist-upgrade",
		"-- -e":        "install -e",
	} {
		r, err := readRequest(strings.Fields(in))
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		got := strings.Join(aptArgs(r)[5:], " ")
		if diff := cmp.Diff("--no-install-recommends --assume-yes "+want, got); diff != "" {
			t.Errorf("%s:\n%s", in, diff)
		}
		if strings.Contains(in, "nova") != (r.element == "nova") {
			t.Errorf("%s: element %q", in, r.element)
		}
	}
}

// Results that cannot be written are a failure.
func TestResultsThatCannotBeWritten(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	root := system(t)
	for _, line := range []string{"svc-map api", "pkg-map --pkg-map " + root + "/usr/share/pkg-map/nova --distro debian api",
		"dib-run-parts --list " + root + "/lib/systemd/system", "svc-map --help", "pkg-map --help"} {
		if strings.HasPrefix(line, "dib-run-parts") {
			write(t, root+"/lib/systemd/system/10-hook", "")
		}
		var errs bytes.Buffer
		words := strings.Fields(line)
		status := run(t.Context(), words[0], words[1:], &caller{
			IO: command.IO{Stdin: strings.NewReader(""), Stdout: full, Stderr: &errs}, root: root, env: map[string]string{},
		})
		if status != command.StatusFailed || !strings.Contains(errs.String(), "standard output: ") {
			t.Errorf("%s: status %d, %q", line, status, errs.String())
		}
	}
}
