package disk

import (
	"strings"
	"testing"

	"goldsmith/internal/tree"
)

func TestSetState(t *testing.T) {
	own := " /etc/.pwd.lock /etc/.updated /etc/adjtime /etc/hostname /etc/machine-id /etc/ssh/ssh_host_*"
	for name, c := range map[string]struct {
		state    []string
		declared string
		want     string
	}{
		"nothing":      {nil, "", "/var /home /root /srv" + own},
		"no directory": {[]string{}, "", strings.TrimSpace(own)},
		"directories":  {[]string{"/var", "/opt/data"}, "", "/var /opt/data" + own},
		"of /etc":      {[]string{"/etc/app"}, "", "/var /home /root /srv /etc/app" + own},
		"declared": {[]string{"/var"},
			"# ours\n/etc/app/*.key # keys\n\n/opt/app\n/var/lib/app\n/etc/hostname\n",
			"/var /etc/app/*.key /opt/app /etc/hostname /etc/.pwd.lock /etc/.updated /etc/adjtime /etc/machine-id /etc/ssh/ssh_host_*"},
		"declared, all":    {nil, "/etc\n", "/var /home /root /srv /etc" + own},
		"declared, a file": {nil, "/bin/sh\n", "error: state directory: /bin/sh is not a directory"},
		"declared, relative": {nil, "\netc/x\n",
			"error: /usr/share/goldsmith/state.d/app, line 2: state \"etc/x\": expected an absolute"},
		"declared, /usr": {nil, "/usr/x\n",
			"error: /usr/share/goldsmith/state.d/app, line 1: state \"/usr/x\": /usr cannot be kept"},
	} {
		root := tree.New()
		root.AddFile("bin/sh", 0o755, nil)
		if c.declared != "" {
			root.AddFile(StateDir+"/app", 0o644, []byte(c.declared))
		}
		conf := Config{Root: root, State: c.state}
		var got string
		if err := conf.setState(); err != nil {
			got = "error: " + err.Error()
		} else {
			got = strings.Join(conf.State, " ")
		}
		if want, bad := strings.CutPrefix(c.want, "error: "); bad && !strings.Contains(got, want) ||
			!bad && got != want {
			t.Errorf("%s: %s; want %s", name, got, c.want)
		}
	}
}
