package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

func TestMapIDs(t *testing.T) {
	const bad = "\n# a comment\nme:x:1\nme:1\nme:5:0\nother:100000:65536\n"
	for _, tt := range []struct{ text, want, err string }{
		{"me:100000:65536\n", "0 1000 1 1 100000 65535", ""},
		{bad + "1000:200000:100000", "0 1000 1 1 200000 65535", ""},
		{"me:100000:65535\nme:900000:65536\n", "0 1000 1 1 100000 65535", ""},
		{"me:100000:60000\n1000:900000:65536\n", "0 1000 1 1 100000 60000 60001 900000 5535", ""},
		{"me:100000:65534\n", "", "65534 subordinate ids for the user me; an image needs 65535"},
		{bad, "", "no subordinate ids for the user me"},
		{"", "", "no subordinate ids for the user me"},
	} {
		got, err := mapIDs(tt.text, 1000, "me", "1000")
		if strings.Join(got, " ") != tt.want || err != nil != (tt.err != "") || err != nil && err.Error() != tt.err {
			t.Errorf("mapIDs(%q) = %q, %v; want %s%s", tt.text, got, err, tt.want, tt.err)
		}
	}
}

func TestFirstFree(t *testing.T) {
	for text, want := range map[string]uint64{
		"": 100000, "a:5:6": 100000, "a:100000:65536\nb:231072:65536\nc:165536:65536\n": 296608,
	} {
		if got := firstFree(text); got != want {
			t.Errorf("firstFree(%q) = %d; want %d", text, got, want)
		}
	}
}

// What forbids user namespaces is named, with what enables them.
func TestWhyNot(t *testing.T) {
	denied := &os.PathError{Op: "fork/exec", Path: self, Err: unix.EPERM}
	for _, tt := range []struct {
		files  map[string]string
		err    error
		text   string
		remedy string
	}{
		{map[string]string{"kernel/unprivileged_userns_clone": "0\n"}, denied,
			"fork/exec /proc/self/exe: operation not permitted (kernel.unprivileged_userns_clone is 0)",
			"sudo sysctl kernel.unprivileged_userns_clone=1; or run as root"},
		{map[string]string{"kernel/unprivileged_userns_clone": "1\n", "user/max_user_namespaces": "0\n"}, denied,
			"(user.max_user_namespaces is 0)", "sudo sysctl user.max_user_namespaces=15000; or run as root"},
		{map[string]string{"user/max_user_namespaces": "9\n", "kernel/apparmor_restrict_unprivileged_userns": "1\n"}, denied,
			"(kernel.apparmor_restrict_unprivileged_userns is 1)", `give this program an AppArmor profile with "userns" ` +
				"(docs/operations.md), or sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; or run as root"},
		{nil, denied, "operation not permitted", "this kernel, or the container that this runs in, allows ordinary users no user namespaces; or run as root"},
		{nil, command.Missing(errors.New("x"), "y"), "x", "y"},
	} {
		proc := t.TempDir()
		for file, text := range tt.files {
			p := filepath.Join(proc, file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		err := whyNot(proc, false, tt.err)
		if !strings.HasSuffix(err.Error(), tt.text) || command.HintOf(err) != tt.remedy || command.Status(err) != command.StatusMissing {
			t.Errorf("%v: %v, hint %q; want %s, hint %q", tt.files, err, command.HintOf(err), tt.text, tt.remedy)
		}
	}
	err := whyNot(t.TempDir(), true, denied)
	if hint := command.HintOf(err); !strings.HasPrefix(hint, "root of a container may make none") {
		t.Errorf("as root: %v, hint %q", err, hint)
	}
}
