package blockdevice

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// What is wrong with a file system is in the error, however much its program
// says of how it is used.
func TestReason(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.Truncate(file, 20<<20)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, want string }{
		{"mkfs.xfs -d foo", "mkfs.xfs: exit status 1:\n    unknown option -d foo"},
		{"mkfs.ext4 -q -E foo=1", "\n    Bad option(s) specified: foo\n"},
		{"mkfs.ext4 -Z", "mkfs.ext4: exit status 1:\n    mkfs.ext4: invalid option -- 'Z'"},
		{"mkfs.vfat -q", "mkfs.vfat: exit status 1:\n    mkfs.vfat: invalid option -- 'q'"},
	} {
		args := append(strings.Fields(c.args), file)
		testenv.Need(t, args[0])
		var log bytes.Buffer
		d := Devices{log: &log}
		err := d.run(t.Context(), args)
		if _, ok := errors.AsType[*command.ExitError](err); !ok || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %s", c.args, err, c.want)
		}
		if n := strings.Count(log.String(), "\n"); n < 9 {
			t.Errorf("%s: the log has %d lines", c.args, n)
		}
	}
}

// A short output is shown once and whole.
func TestReasonShort(t *testing.T) {
	var lines []string
	for n := range 14 {
		tail := lines[max(0, len(lines)-8):]
		want := lines
		if n > 11 {
			want = append(append([]string{"line 0", "line 1", "line 2"}, "…"), tail...)
		}
		if got := reason(strings.Join(lines, "\n\n"), tail); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%d lines: %q; want %q", n, got, want)
		}
		lines = append(lines, fmt.Sprint("line ", n))
	}
}
