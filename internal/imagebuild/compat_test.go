package imagebuild

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

func TestCompatOutputs(t *testing.T) {
	for _, c := range []struct {
		types   string
		plain   bool // -u
		options string
		want    string // separated by semicolons
	}{
		{types: "", want: ""},
		{types: "qcow2", want: "qcow2-zlib"},
		{types: "qcow2", plain: true, want: "qcow2-none"},
		{types: "qcow2", options: "cluster_size=4k", want: "qemu-img -c qcow2"},
		{types: "qcow2", options: "cluster_size=4k", plain: true, want: "qemu-img qcow2"},
		{types: "tar tgz squashfs vhd raw aci docker", want: "tar;tgz;squashfs;vhd;raw;aci;docker"},
		{types: "vmdk vhdx vdi vpc", want: "qemu-img vmdk;qemu-img vhdx;qemu-img vdi;qemu-img vpc"},
		{types: "vmdk", options: "subformat=streamOptimized", want: "qemu-img vmdk"},
		{types: "tar qcow2 tar qcow2 vmdk qcow2", want: "tar;qcow2-zlib;qemu-img vmdk"}, // each once, in order
		{types: "squashfs qcow2", want: "squashfs;qcow2-zlib"},
	} {
		outputs, err := CompatOutputs(strings.Fields(c.types), !c.plain, c.options)
		if got := strings.Join(outputs, ";"); err != nil || got != c.want {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		for _, o := range outputs {
			if formatOf(o).write == nil {
				t.Errorf("%s: nothing writes it", o)
			}
		}
	}
	for _, bad := range []string{"", "../x", "-c", "vmdk raw", "QCOW2", "a/b"} {
		got, err := CompatOutputs([]string{"raw", bad}, true, "")
		if err == nil || command.Status(err) != command.StatusUsage || got != nil {
			t.Errorf("%q: %q, %v", bad, got, err)
		}
	}
}

func TestCompatFiles(t *testing.T) {
	outputs := []string{"tar", "qcow2-zlib", "squashfs", "qemu-img vmdk", "docker", "raw", "vhd", "tgz"}
	given := slices.Clone(outputs)
	for _, c := range []struct {
		ramdisk  bool
		elements string
		want     []string
	}{
		{false, "base vm", outputs},
		{false, "base no-final-image vm", []string{"tar", "squashfs", "docker", "tgz"}},
		{false, "my-no-final-image", outputs},
		{true, "base", nil},
		{true, "no-final-image", nil},
	} {
		got := compatFiles(&Compat{NoImage: c.ramdisk}, given, strings.Fields(c.elements))
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", c, diff)
		}
	}
	if !slices.Equal(given, outputs) {
		t.Errorf("the caller's list is %q", given)
	}
}

// files makes files that hold their names.
func files(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// held is what files are called, and what they hold where that is not the same.
func held(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		s := e.Name()
		b, _ := os.ReadFile(filepath.Join(dir, s))
		if string(b) != s {
			s += "=" + string(b)
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// An old output keeps its content under the time of the build, with its
// checksums.
func TestKeepOld(t *testing.T) {
	now := time.Date(2026, 3, 4, 15, 6, 7, 89, time.UTC)
	const stamp = "-2026.03.04-15.06.07"
	for _, c := range []struct {
		name      string
		overwrite string
		files     string
		want      string
	}{
		{"i.qcow2", "", "i.qcow2 i.qcow2.md5 i.qcow2.sha256 i.raw i.raw.md5",
			"iSTAMP.qcow2.md5=i.qcow2.md5 iSTAMP.qcow2.sha256=i.qcow2.sha256 iSTAMP.qcow2=i.qcow2 i.raw i.raw.md5"},
		{"i.raw", "0", "i.raw", "iSTAMP.raw=i.raw"},
		{"i.raw", "", "i.raw i.raw.sha256", "iSTAMP.raw.sha256=i.raw.sha256 iSTAMP.raw=i.raw"},
		{"a.b.vhd", "", "a.b.vhd", "a.bSTAMP.vhd=a.b.vhd"},
		{"i.tgz", "", "i.tgz", "iSTAMP.tgz=i.tgz"},
		{"i.raw", "1", "i.raw i.raw.md5", "i.raw i.raw.md5"},
		{"i.tar", "", "i.tar i.tar.md5", "i.tar i.tar.md5"},
		{"i.aci", "", "i.aci", "i.aci"},
		{"i.squash", "", "i.squash", "i.squash"},
		{"i.raw", "", "i.raw.md5 other", "i.raw.md5 other"}, // no output, nothing to do
	} {
		dir := files(t, strings.Fields(c.files)...)
		compat := &Compat{Environ: map[string]string{"OVERWRITE_OLD_IMAGE": c.overwrite}}
		if err := compat.keepOld(filepath.Join(dir, c.name), now); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if got := held(t, dir); got != strings.ReplaceAll(c.want, "STAMP", stamp) {
			t.Errorf("%+v: left %s", c, got)
		}
	}
	dir := t.TempDir()
	odd := filepath.Join(dir, "i.raw")
	if err := os.Mkdir(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (&Compat{}).keepOld(odd, now); err != nil || held(t, dir) != "i.raw=" {
		t.Errorf("a directory: %v, %s", err, held(t, dir))
	}
}

// Checksums are those that md5sum and sha256sum check, where the original's
// caller would.
func TestWriteChecksums(t *testing.T) {
	testenv.Need(t, "md5sum", "sha256sum")
	for _, c := range []struct{ format, ending, asked, want string }{
		{"qcow2-zlib", "qcow2", "1", "md5 sha256"},
		{"raw", "raw", "md5,sha256", "md5 sha256"},
		{"raw", "raw", "sha256,md5", "md5 sha256"},
		{"raw", "raw", "md5", "md5"},
		{"tgz", "tgz", "sha256", "sha256"},
		{"raw", "raw", "", ""},
		{"raw", "raw", "0", ""},
		{"raw", "raw", "sha512", ""},
		{"tar", "tar", "1", ""},
		{"aci", "aci", "1", ""},
		{"squashfs", "squash", "1", ""},
	} {
		top := t.TempDir()
		if err := os.Mkdir(filepath.Join(top, "out"), 0o755); err != nil {
			t.Fatal(err)
		}
		var made pending
		out := &Output{Format: c.format, Path: filepath.Join(top, "out", "my image."+c.ending)}
		f, err := made.create(out.Path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte("end"), 3<<20) // behind a hole
		if err := errors.Join(err, out.measure(f)); err != nil {
			t.Fatal(err)
		}
		compat := &Compat{Environ: map[string]string{"DIB_CHECKSUM": c.asked}, ImageName: "out/my image"}
		if err := errors.Join(compat.writeChecksums(&made, out, f), made.commit()); err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		var got []string
		for _, kind := range []string{"md5", "sha256"} {
			sums := out.Path + "." + kind
			if _, err := os.Stat(sums); err != nil {
				continue
			}
			got = append(got, kind)
			check := exec.Command(kind+"sum", "--check", "--strict", sums)
			check.Dir = top
			if said, err := check.CombinedOutput(); err != nil || string(said) != "out/my image."+c.ending+": OK\n" {
				t.Errorf("%+v: %ssum: %v: %s", c, kind, err, said)
			}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%+v: made %q", c, got)
		}
	}
}
