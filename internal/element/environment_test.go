package element

import (
	"os/exec"
	"testing"

	"goldsmith/internal/testenv"
)

var oddElements = []*Element{
	{Name: "base", Dir: "/usr/share/elements/base"},
	{Name: "yes", Dir: "/tmp/a b/yes"},
	{Name: "7zip", Dir: "/tmp/it's $HOME `id` \\ \"x\"/7zip"},
	{Name: "dib-run-parts", Dir: "/opt/ü/dib-run-parts"},
}

func TestYAMLIsReadBack(t *testing.T) {
	testenv.Need(t, "python3")
	cmd := exec.Command("/usr/bin/python3", "-c", `
import sys, yaml
for k, v in sorted(yaml.safe_load(sys.argv[1]).items()): print(repr(k), repr(v))`, YAML(oddElements))
	out, err := cmd.CombinedOutput()
	want := `'7zip' '/tmp/it\'s $HOME ` + "`id`" + ` \\ "x"/7zip'
'base' '/usr/share/elements/base'
'dib-run-parts' '/opt/ü/dib-run-parts'
'yes' '/tmp/a b/yes'
`
	if err != nil || string(out) != want {
		t.Errorf("read back as\n%s(%v), want\n%s", out, err, want)
	}
	if got := YAML(nil); got != "{}\n" {
		t.Errorf("YAML(nil) = %q", got)
	}
}

// Bash imports the function and, as hooks do, makes an array of what it prints.
func TestArrayFunctionInBash(t *testing.T) {
	testenv.Need(t, "bash")
	for _, e := range oddElements {
		cmd := exec.Command("bash", "-euc", `
eval declare -A elements=($(get_image_element_array))
printf '%s' "${elements[$1]}"`, "-", e.Name)
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/root",
			"BASH_FUNC_get_image_element_array%%=" + ArrayFunction(oddElements)}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != e.Dir {
			t.Errorf("element %s = %q, %v; want %q", e.Name, out, err, e.Dir)
		}
	}
}
