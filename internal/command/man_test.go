package command

import (
	"bytes"
	"flag"
	"os/exec"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// The page says what the help says, and man has nothing to say about it.
func TestManPage(t *testing.T) {
	testenv.Need(t, "man")
	c := &Command{Name: "run", Args: "FILE.yaml", Short: "run it", Long: "First.\n.hidden is no request,\n'neither this\\n.\n\n    a  line\n\nLast.",
		Example: "prog run -n a.yaml | jq '.x'\nprog run --name \"it's\"",
		Flags: func(fs *flag.FlagSet) {
			fs.String("name", "x", "call it `NAME`")
			fs.Bool("n", false, "do nothing")
		}}
	for name, p := range map[string]*Program{
		"verbs": {Name: "prog", Short: "do things", Long: "All of them.", Commands: []*Command{c}},
		"root":  {Name: "prog", Root: &Command{Short: "do it", Long: "It.", Flags: c.Flags, Example: c.Example}, Commands: []*Command{c}},
	} {
		var page, stderr bytes.Buffer
		if status := p.Run(t.Context(), []string{"completion", "man"}, IO{Stdout: &page, Stderr: &stderr}); status != 0 {
			t.Fatalf("status %d: %s", status, &stderr)
		}
		cmd := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", "-")
		cmd.Env = append(cmd.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=100", "MANROFFOPT=")
		cmd.Stdin = &page
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil || said.Len() > 0 {
			t.Errorf("%s: man: %v: %s", name, err, &said)
		}
		for _, want := range []string{"NAME\n", "prog run [flags] FILE.yaml", ".hidden is no request, 'neither this\\n.", "    a  line\n", "Last.",
			"--name NAME", "call it NAME (default x)", "-n     do nothing", "prog run -n a.yaml | jq '.x'\n", "prog run --name \"it's\"\n", "EXIT STATUS"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: the page lacks %q:\n%s", name, want, out)
			}
		}
	}
}
