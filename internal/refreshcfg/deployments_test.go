package refreshcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/metadata"
	"goldsmith/internal/testenv"
)

// deployments is a machine with heat-config's hooks.
type deployments struct {
	Deployments
	t    *testing.T
	dir  string
	said []string
}

func newDeployments(t *testing.T) *deployments {
	d := &deployments{t: t, dir: t.TempDir()}
	d.Hooks, d.Deployed = []string{d.dir + "/hooks", d.dir + "/more"}, d.dir+"/var/deployed"
	d.Say = func(format string, args ...any) { d.said = append(d.said, fmt.Sprintf(format, args...)) }
	return d
}

func (d *deployments) hook(name, text string) {
	writeHook(d.t, filepath.Join(d.dir, "hooks", name), strings.ReplaceAll(text, "DIR", d.dir))
}

func (d *deployments) file(name string) string {
	b, err := os.ReadFile(filepath.Join(d.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		d.t.Fatal(err)
	}
	return string(b)
}

func (d *deployments) run(text string) error {
	d.t.Helper()
	d.said = nil
	return d.Run(d.t.Context(), document(d.t, text))
}

const hello = `cat >DIR/in; echo ran >>DIR/log; echo '{"deploy_stdout": "hello", "deploy_status_code": 0, "port": 80}'`

func TestDeployments(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", hello)
	url, got := server(t, 500, 200)
	doc := `{"deployments": [
		{"id": "a", "group": "script", "config": "x", "inputs": [
			{"name": "n", "type": "String", "value": 5}, {"name": "yes", "type": "String", "value": true},
			{"name": "deploy_signal_id", "value": "` + url + `/a?sig=s3cret"}, {"name": "deploy_signal_verb", "value": "PUT"}]},
		{"id": "b", "group": "os-apply-config", "config": {}}, {"id": "c", "group": "none/such"}, {"id": "d", "group": "none/such"}, 1,
		{"id": "e", "group": "Heat::Ungrouped"}, {"id": "../f", "group": "script"}]}`
	if err := d.run(doc); err != nil {
		t.Fatal(err)
	}
	want := []string{
		`PUT /a?sig=s3cret application/json  {"deploy_stdout": "hello", "deploy_status_code": 0, "port": 80}`,
		`PUT /a?sig=s3cret application/json  {"deploy_stdout": "hello", "deploy_status_code": 0, "port": 80}`,
	}
	if diff := cmp.Diff(want, got()); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if all := strings.Join(d.said, "\n"); strings.Contains(all, "s3cret") || strings.Count(all, "there is no hook") != 1 || strings.Count(all, "no object") != 1 {
		t.Errorf("said:\n%s", all)
	}
	if in := d.file("var/deployed/a.json"); !strings.Contains(in, `{"name": "n", "type": "String", "value": "5"}`) || !strings.Contains(in, `"value": "True"`) {
		t.Errorf("deployed %s", in)
	}
	if d.file("var/deployed/a.notify.json") == "(none)" || d.file("var/deployed/a.open") != "(none)" || d.file("var/deployed/%2E.%2Ff.json") == "(none)" {
		t.Error("files of what was deployed are wrong")
	}
	if fi, err := os.Stat(d.Deployed); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want mode 0700", fi, err)
	}
	if err := d.run(doc); err != nil || d.file("log") != "ran\nran\n" {
		t.Errorf("once more: %v, log %q", err, d.file("log"))
	}
}

// What a hook says is passed on; what is not an object of JSON, as its output.
func TestDeploymentOutcomes(t *testing.T) {
	for _, c := range []struct{ hook, want string }{
		{"echo out; echo err >&2; exit 3", `{"deploy_stdout": "out\n", "deploy_stderr": "err\n", "deploy_status_code": 3}`},
		{"exit 4", `{"deploy_stdout": "", "deploy_stderr": "", "deploy_status_code": 4}`},
		{`echo '{"deploy_status_code": 2}'; exit 3`, `{"deploy_status_code": 2}`},
		{"echo '[1]'", `{"deploy_stdout": "[1]\n", "deploy_stderr": "", "deploy_status_code": 0}`},
		{`printf '\377'`, `{"deploy_stdout": "\ufffd", "deploy_stderr": "", "deploy_status_code": 0}`},
	} {
		d := newDeployments(t)
		d.hook("script", c.hook)
		url, got := server(t, 200)
		if err := d.run(`{"deployments": [{"id": "a", "group": "script", "inputs": [{"name": "deploy_signal_id", "value": "` + url + `"}]}]}`); err != nil {
			t.Fatal(err)
		}
		if all := got(); len(all) != 1 || !strings.HasSuffix(all[0], " "+c.want) {
			t.Errorf("%s: %q; want %s", c.hook, all, c.want)
		}
	}
}

// Of a hook that prints for ever only the end is known, and no success.
func TestDeploymentPrintsTooMuch(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", "head -c 20000000 /dev/zero | tr '\\0' x; echo END; exit 0")
	if err := d.run(`{"deployments": [{"id": "a", "group": "script"}]}`); err != nil {
		t.Fatal(err)
	}
	s := d.file("var/deployed/a.notify.json")
	if len(s) > 2*maxSaid || !strings.Contains(s, `xEND\n"`) || !strings.Contains(s, `"deploy_status_code": 1`) || !strings.Contains(s, "more than 4 MiB") {
		t.Errorf("%d bytes: ...%s", len(s), s[max(0, len(s)-200):])
	}
}

// A hook that is there and cannot be started is a failure that Heat is told of.
func TestDeploymentHookCannotStart(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", "")
	if err := os.Chmod(d.dir+"/hooks/script", 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.run(`{"deployments": [{"id": "a", "group": "script"}]}`); err != nil {
		t.Fatal(err)
	}
	if s := d.file("var/deployed/a.notify.json"); !strings.Contains(s, `"deploy_status_code": 1`) {
		t.Error(s)
	}
}

// When power fails while a hook runs, Heat is told so, and the hook does not
// run again; what a hook said and nobody heard is told by the next run.
func TestDeploymentCutShort(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", hello)
	url, got := server(t, 200)
	doc := `{"deployments": [{"id": "a", "group": "script", "inputs": [{"name": "deploy_signal_id", "value": "` + url + `"}]}]}`
	for _, name := range []string{"a.open", "a.json"} {
		if err := errors.Join(os.MkdirAll(d.Deployed, 0o700), os.WriteFile(d.Deployed+"/"+name, []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.run(doc); err != nil || d.file("log") != "(none)" {
		t.Errorf("%v, log %q", err, d.file("log"))
	}
	if all := got(); len(all) != 1 || !strings.Contains(all[0], `"deploy_status_code": 1`) || !strings.Contains(all[0], "the machine stopped") {
		t.Errorf("requests %q", all)
	}
	for name, text := range map[string]string{"a.open": "", "a.notify.json": `{"deploy_status_code": 0}`} {
		if err := os.WriteFile(d.Deployed+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.run(doc); err != nil {
		t.Fatal(err)
	}
	if all := got(); len(all) != 1 || !strings.HasSuffix(all[0], ` {"deploy_status_code": 0}`) || d.file("var/deployed/a.open") != "(none)" {
		t.Errorf("requests %q", all)
	}
}

// Without a network all deployments are made, and what was not told is told by
// the next run, in a bounded time.
func TestDeploymentsWithoutNetwork(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", hello)
	url, got := server(t, 200)
	var items []string
	for _, id := range []string{"a", "b", "c"} {
		items = append(items, `{"id": "`+id+`", "group": "script", "inputs": [{"name": "deploy_signal_id", "value": "`+url+`/?s3cret"}]}`)
		if err := errors.Join(os.MkdirAll(d.Deployed, 0o700), os.WriteFile(d.Deployed+"/"+id+".json", []byte("{}"), 0o600),
			os.WriteFile(d.Deployed+"/"+id+".open", nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	doc := `{"deployments": [` + strings.Join(items, ",") + `]}`
	synctest.Test(t, func(t *testing.T) {
		old := http.DefaultTransport
		http.DefaultTransport = &refusing{}
		defer func() { http.DefaultTransport = old }()
		start := time.Now()
		err := d.Run(t.Context(), document(t, doc))
		if took := time.Since(start); err == nil || strings.Contains(err.Error(), "s3cret") || took > notifyTotal+2*resendTotal {
			t.Errorf("%v after %s", err, took)
		}
	})
	if err := d.run(doc); err != nil || len(got()) != 3 {
		t.Error(err)
	}
	if err := d.run(doc); err != nil || len(got()) != 0 {
		t.Error(err)
	}
}

func TestDeploymentOfComponent(t *testing.T) {
	d := newDeployments(t)
	d.hook("script", hello)
	const doc = `{"deployments": [{"id": "a", "group": "component", "config": {"configs": [
		{"actions": ["CREATE"], "tool": "none", "config": "create"}, {"actions": ["UPDATE", "DELETE"], "tool": "script", "config": "update"}]},
		"inputs": [{"name": "deploy_action", "value": "ACTION"}]}]}`
	if err := d.run(strings.ReplaceAll(doc, "ACTION", "DELETE")); err != nil {
		t.Fatal(err)
	}
	var in struct{ Group, Config string }
	if err := json.Unmarshal([]byte(d.file("in")), &in); err != nil || in.Group != "script" || in.Config != "update" {
		t.Errorf("the hook got %+v, %v", in, err)
	}
	if err := d.run(strings.ReplaceAll(doc, "ACTION", "SUSPEND")); err != nil || !strings.Contains(d.said[0], `no config for the action "SUSPEND"`) {
		t.Errorf("%v, %q", err, d.said)
	}
}

func TestDeploymentOtherTransport(t *testing.T) {
	for input, want := range map[string]string{"deploy_queue_id": "Zaqar", "deploy_auth_url": "Keystone"} {
		d := newDeployments(t)
		d.hook("script", hello)
		if err := d.run(`{"deployments": [{"id": "a", "group": "script", "inputs": [{"name": "` + input + `", "value": "x"}]}]}`); err != nil {
			t.Fatal(err)
		}
		if all := strings.Join(d.said, "\n"); strings.Count(all, want) != 1 {
			t.Errorf("%s: said %q", input, all)
		}
	}
}

func TestTrim(t *testing.T) {
	long := func(c string, n int) string { return strings.Repeat(c, n) }
	for _, c := range []struct{ out, err string }{
		{"short", ""}, {long("o", 2_000_000) + "END", long("e", 500_000) + "END"}, {long("\x01", 400_000) + "END", "x"}, {long("é", 900_000) + "END", ""},
	} {
		o := result(c.out, c.err, 0)
		got := trim(o)
		if len(got) > maxNotice {
			t.Errorf("%d bytes", len(got))
		}
		v, err := metadata.Parse("trimmed", got)
		if err != nil {
			t.Fatal(err)
		}
		out, _ := v.(*metadata.Object).Text("deploy_stdout")
		if !strings.HasSuffix(c.out, out) || len(got) > 1000 && len(got) < maxNotice-1000 {
			t.Errorf("%d bytes, out %d of %d", len(got), len(out), len(c.out))
		}
	}
}

const exampleHooks = "../../elements/heat-config/static/usr/libexec/heat-config/hooks"

// The hooks that the element brings, with the tools they call.
func TestExampleHooks(t *testing.T) {
	for _, c := range []struct{ group, needs, config, want string }{
		{"script", "bash", "#!/bin/bash\necho hello $name\necho 80 >$heat_outputs_path.port\necho oops >&2\nexit 3\n",
			`{"deploy_stdout": "hello you\n", "deploy_stderr": "oops\n", "deploy_status_code": 3, "port": "80\n"}`},
		{"ansible", "ansible-playbook", `
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - copy:
        content: "hello {{ name }}"
        dest: "{{ file }}"
        mode: "0644"
    - copy:
        content: "80"
        dest: "{{ heat_outputs_path }}.port"
        mode: "0600"
`, `"deploy_status_code": 0, "port": "80"}`},
	} {
		t.Run(c.group, func(t *testing.T) {
			testenv.Need(t, "jq", c.needs)
			d := newDeployments(t)
			hooks, err := filepath.Abs(exampleHooks)
			if err != nil {
				t.Fatal(err)
			}
			d.Hooks = []string{hooks}
			item, _ := json.Marshal(map[string]any{"deployments": []any{map[string]any{"id": "a", "name": "n", "group": c.group, "config": c.config,
				"inputs":  []any{map[string]any{"name": "name", "value": "you"}, map[string]any{"name": "file", "value": d.dir + "/made"}},
				"outputs": []any{map[string]any{"name": "port"}}}}})
			if err := d.run(string(item)); err != nil {
				t.Fatal(err)
			}
			if got := d.file("var/deployed/a.notify.json"); !strings.HasSuffix(got, c.want+"\n") {
				t.Errorf("told %s; want %s\nsaid %q", got, c.want, d.said)
			}
			if c.group == "ansible" && d.file("made") != "hello you" {
				t.Errorf("the playbook made %q", d.file("made"))
			}
			if _, err := exec.LookPath("shellcheck"); err == nil {
				if out, err := exec.Command("shellcheck", hooks+"/"+c.group).CombinedOutput(); err != nil {
					t.Errorf("%s", out)
				}
			}
		})
	}
}
