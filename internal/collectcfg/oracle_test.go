package collectcfg

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/collectcfg/oslo"
	"goldsmith/internal/testenv"
)

// settingsCase is a command line in a directory with files.
type settingsCase struct {
	Dir       string
	Env, Args []string
	text      string // the files, for messages
}

// What command lines and files are made of.
var (
	someArgs = []string{
		"--cachedir", "x", "--cachedir=y", "--cached", "-c", "-cfoo", "echo $cachedir", "--command=$local.path-${DEFAULT.x}", "-i", "5", "-i7", "-i=3", "-5", "-5.5", "--polling-interval",
		"--force", "--noforce", "--forc", "--no", "--one-time", "--noone-time", "--print", "--print-cachedir", "--pri", "-d", "-di", "-dd", "-dc", "local", "ec2", "--", "-", "",
		"--local-path", "--local-path=l", "--local-p", "--heat_local-path", "h", "--cfn-path", "a.b", "--cfn-ca_certificate", "--splay", "1e2", " 3 ", "inf", "--config-file", "a.conf",
		"b.conf", "--config-file=b.conf", "--config-f", "--config-dir", "d", "--config-dir=d", "--deployment-key", "k", "--zaqar-use-websockets", "--zaqar-nouse-websockets",
		"--use-json", "--log-file", "--logfile=z", "--keystone-cache_ttl=4", "-x", "--what", "--request-metadata-url", "http://x/?a=b&c", "a b", "-i 5", "- x", "--ec2-timeout=2",
	}
	someLines = []string{
		"[DEFAULT]", "[DEFAULT]", "[local]", "[LOCAL]", "[default]", "[cfn]", "[ec2]", "[other]", "[x", "[]", "cachedir = $backup_cachedir/c", "cachedir=c", "cachedir: d=e", "backup_cachedir = b",
		"cachedir =", "cachedir = \"q\"", "cachedir = 'q\"", "cachedir = \"", "command = echo $$X \\$Y $1 ${", "command = ${cachedir}$", "command = $cachedir.x", "command = $command", "command = $local",
		"command = ${local.path}", "one_time = yes", "one-time = yes", "force = False", "print_only = on", "print = on", "polling_interval = 9", "min_polling_interval = 0.5", "splay = ", "splay = x",
		"path = p", "path = q", "path = $cachedir", "timeout = 4", "metadata_url = http://$cachedir/", "collectors = local", "collectors = ec2", "deployment_key = dk", "# c", "; c", " # c", "\tmore",
		"  more", "", "nonsense", "= x", ": x", "key = v", "Cachedir = no", "use_websockets = 1", "ca_certificate = ca", "debug = true",
	}
)

// seldom are those of them that make a command line or a file wrong.
var seldom = map[string]bool{
	"--command=$local.path-${DEFAULT.x}": true, "--polling-interval": true, "--no": true, "--pri": true, "-di": true, "--": true, "--heat_local-path": true,
	"--cfn-ca_certificate": true, "--splay": true, "--config-file": true, "--config-f": true, "--config-dir": true, "--deployment-key": true, "--log-file": true, "-x": true,
	"--what": true, "--request-metadata-url": true, "a.conf": true, "b.conf": true, "x": true, "h": true, "k": true, "a.b": true, "5": true, "": true, "-": true, "a b": true,
	"- x": true, " 3 ": true, "inf": true, "1e2": true, "http://x/?a=b&c": true, "d": true, "-5": true, "-5.5": true, "local": true, "ec2": true, "-i": true, "-c": true,
	"--cached": true, "--cachedir": true, "--local-path": true, "--local-p": true, "echo $cachedir": true, "-i 5": true,
	"[x": true, "[]": true, "nonsense": true, "= x": true, ": x": true, "splay = x": true, "command = $cachedir.x": true, "command = $command": true, "command = $local": true,
	" # c": true, "\tmore": true, "  more": true,
}

func generateSettings(t *testing.T, n int) []settingsCase {
	random := rand.New(rand.NewPCG(4, 2))
	pick := func(from []string, n int) []string {
		var out []string
		for range random.IntN(n) {
			s := from[random.IntN(len(from))]
			if seldom[s] && random.IntN(12) > 0 {
				continue
			}
			out = append(out, s)
		}
		return out
	}
	root := t.TempDir()
	var cases []settingsCase
	for i := range n {
		c := settingsCase{Dir: filepath.Join(root, fmt.Sprint(i))}
		content := map[string]string{}
		for _, name := range []string{"os-collect-config.conf", "a.conf", "b.conf", "d/x.conf", "os-collect-config.conf.d/y.conf"} {
			if random.IntN(3) == 0 {
				continue
			}
			lines := pick(someLines, 8)
			if random.IntN(4) > 0 {
				lines = append([]string{"[DEFAULT]"}, lines...)
			}
			content[name] = strings.Join(lines, "\n") + "\n"
			c.text += name + ":\n" + content[name]
		}
		files(t, c.Dir, content)
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			t.Fatal(err)
		}
		c.Args, c.Env = pick(someArgs, 7), []string{"HOME=" + c.Dir, "PATH=/usr/bin:/bin"}
		if random.IntN(4) == 0 {
			c.Env = append(c.Env, "OS_DEFAULT__CACHEDIR=env$$", "OS_EC2__TIMEOUT=8")
		}
		cases = append(cases, c)
	}
	return cases
}

// ourSettings reads a case in this process.
func ourSettings(t *testing.T, c settingsCase, names []string) map[string]any {
	t.Helper()
	t.Chdir(c.Dir)
	env := map[string]string{}
	for _, e := range c.Env {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	t.Setenv("HOME", env["HOME"])
	p := oslo.Parser{Options: Options(false), Home: env["HOME"], Getenv: func(k string) (string, bool) { v, ok := env[k]; return v, ok }}
	p.Files, p.Dirs = machineFiles(env["HOME"], "/nonexistent")
	s, err := p.Parse(c.Args)
	switch {
	case errors.Is(err, oslo.ErrHelp), errors.Is(err, oslo.ErrVersion):
		return map[string]any{"status": 0.0}
	case err != nil:
		status := 1.0
		if _, ok := errors.AsType[*oslo.UsageError](err); ok {
			status = 2
		}
		return map[string]any{"status": status, "why": err.Error()}
	}
	out := map[string]any{}
	kinds := map[string]oslo.Kind{}
	for _, o := range p.Options {
		kinds[optionName(o)] = o.Kind
	}
	for _, n := range names {
		switch _, ok := s.Text(n); {
		case !ok && kinds[n] == oslo.Multi:
			out[n] = nil
		case !ok:
			out[n] = nil
		case kinds[n] == oslo.Bool:
			out[n] = s.Bool(n)
		case kinds[n] == oslo.Float:
			out[n] = nil
			if f, ok := s.Float(n); ok {
				out[n] = f
			}
		case kinds[n] == oslo.Multi:
			var list []any
			for _, v := range s.List(n) {
				list = append(list, v)
			}
			out[n] = list
		default:
			out[n], _ = s.Text(n)
		}
	}
	return out
}

func optionName(o oslo.Option) string {
	dest := o.Dest
	if dest == "" {
		dest = strings.ReplaceAll(o.Name, "-", "_")
	}
	if o.Group == "" {
		return dest
	}
	return o.Group + "." + dest
}

// TestSettings compares every setting, over made files and command lines.
func TestSettings(t *testing.T) {
	testenv.NeedFile(t, "/usr/lib/python3/dist-packages/os_collect_config/collect.py")
	if _, err := os.Stat("/etc/" + ConfigName); err == nil {
		testenv.Missing(t, "this machine has settings of its own")
	}
	program, err := os.ReadFile("testdata/settings.py")
	if err != nil {
		t.Fatal(err)
	}
	ignored := map[string]bool{} // of sources and logging that ours has no use for
	for _, o := range passedOver() {
		ignored[optionName(o)] = true
	}
	var names []string
	for _, o := range Options(false) {
		if !ignored[optionName(o)] {
			names = append(names, optionName(o))
		}
	}
	list, err := json.Marshal(names)
	if err != nil {
		t.Fatal(err)
	}
	cases := generateSettings(t, 400)
	var theirs []map[string]any
	testenv.Python(t, string(program), cases, &theirs, nil, string(list))
	equal, refused, stricter := 0, 0, 0
	for i, c := range cases {
		var ours map[string]any
		t.Run(fmt.Sprint(i), func(t *testing.T) { ours = ourSettings(t, c, names) })
		why, _ := ours["why"].(string)
		theirWhy, _ := theirs[i]["why"].(string)
		delete(ours, "why")
		delete(theirs[i], "why")
		status, theyRefuse := theirs[i]["status"]
		_, weRefuse := ours["status"]
		switch {
		case weRefuse && theyRefuse && status == 0.0 && why != "":
			stricter++
		case cmp.Diff(theirs[i], ours) != "":
			t.Errorf("%q %q\n%s(-original %s +ours %s):\n%s", c.Args, c.Env, c.text, theirWhy, why, cmp.Diff(theirs[i], ours))
		case weRefuse:
			refused++
		default:
			equal++
		}
	}
	testenv.Proof(t, testenv.Row{
		Matter: "os-collect-config: settings, generated files and command lines", Equal: equal, Refused: refused,
		Different: []testenv.Difference{{Cases: stricter, Why: "values of the wrong type end it with status 0 in the original, which is refused"}},
	})
}
