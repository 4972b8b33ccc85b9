package oslo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var options = []Option{
	{Name: "command", Short: "c"}, {Name: "dir", Default: []string{"/d"}}, {Name: "force", Kind: Bool, Default: []string{"false"}},
	{Name: "words", Kind: Multi, Words: true, Default: []string{"w"}}, {Group: "local", Name: "path", Kind: Multi, Default: []string{"p"}},
	{Group: "local", Name: "max-size", Kind: Float},
}

func config(t testing.TB, text string) string {
	path := filepath.Join(t.TempDir(), "c.conf")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// The comparison with the original is in package collectcfg; these are what
// differs, and errors.
func TestLenient(t *testing.T) {
	path := config(t, "[local]\nmax-size = 2\n[DEFAULT]\ncommand = echo $HOME ${dir} $$ $dir.x\n")
	s, err := (&Parser{Options: options, Files: []string{path}, Lenient: true}).Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if c, _ := s.Text("command"); c != "echo $HOME /d $ $dir.x" {
		t.Errorf("command = %q", c)
	}
	if f, ok := s.Float("local.max_size"); f != 2 || !ok {
		t.Errorf("max_size = %v, %v", f, ok)
	}
	if d := cmp.Diff([]string{path}, s.Read); d != "" {
		t.Errorf("read (-want +got):\n%s", d)
	}
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]string{
		"[x\n": ":1: a section is written [name]", "[DEFAULT]\n\n  x\n": ":3: a continuation of nothing", "a = b\n": ":1: a setting before the first section: begin with [DEFAULT]",
		"[DEFAULT]\nforce = maybe\n": `:2: force: "maybe" is neither true nor false`, "[local]\nmax_size = x\n": `:2: max_size: "x" is no number`,
		"[DEFAULT]\ncommand = $none\n": `:2: command: there is no option "none" to put in for $none; write $$ for a dollar`,
		"[DEFAULT]\ndir = $dir\n":      ":2: dir: refers to itself", "[DEFAULT]\ndir = $command$command\ncommand=$dir$dir": ":3: command: refers to itself", "[DEFAULT]\n=\n": ":2: a setting without a name",
	} {
		path := config(t, text)
		_, err := (&Parser{Options: options}).Parse([]string{"--config-file", path})
		if e, ok := errors.AsType[*FileError](err); !ok || e.Error() != path+want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
	for args, want := range map[string]string{
		"--nope": "unrecognized arguments: --nope", "--f x --forc=1": `argument --force: ignored explicit argument "1"`, "--": "", "-c": "argument -c: expected one argument",
		"a --force b": "unrecognized arguments: b", "--local-max-size x": `--local-max-size: "x" is no number`, "--con x": "ambiguous option: --con could match --config-dir, --config-file",
	} {
		_, err := (&Parser{Options: options}).Parse(strings.Fields(args))
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %q", args, err, want)
		}
	}
}

func FuzzINI(f *testing.F) {
	f.Add("[DEFAULT]\ncommand = $dir ${local.path} \\$ $$\n[local]\npath: \"x\"\n  y\n")
	f.Add("[DEFAULT]\ndir = $command\ncommand = $dir")
	f.Fuzz(func(t *testing.T, text string) {
		for _, lenient := range []bool{false, true} {
			s, err := (&Parser{Options: options, Files: []string{config(t, text)}, Lenient: lenient}).Parse(nil)
			if err != nil {
				continue
			}
			s.Text("command")
			s.List("local.path")
		}
	})
}
