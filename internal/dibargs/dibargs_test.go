package dibargs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// TestGetopt holds the reader to getopt(1): what it takes, in which order, and
// its messages.
func TestGetopt(t *testing.T) {
	testenv.Need(t, "getopt")
	word := rapid.OneOf(
		rapid.SampledFrom([]string{
			"-a", "-aamd64", "-x", "-xx", "-xuo", "-p", "-pa,b", "-z", "-xz", "-", "--", "vm", "debian", "--offline", "--off",
			"--offline=1", "--image-size", "--image-size=4", "--image", "--image-s", "--image-extra", "--m", "--mkfs-j=1",
			"--min", "--no", "--help", "--l", "-h", "--root-label=", "=", "-o", "--checksum", "--version", "--r", "--ramdisk-element",
		}),
		rapid.StringMatching(`-{0,2}[a-z=]{0,6}`),
	)
	list := rapid.SliceOfN(word, 0, 6)
	equal, refused := 0, 0
	for seed := range 200 {
		if getoptTakes(t, list.Example(seed)) {
			equal++
		} else {
			refused++
		}
	}
	testenv.Proof(t, testenv.Row{Matter: "getopt(1): words, order, messages, generated", Equal: equal, Refused: refused})
}

// getoptTakes fails the test where getopt(1) and ours differ, and tells
// whether they take the words.
func getoptTakes(t *testing.T, args []string) bool {
	t.Helper()
	list := append([]string{"-o", flags.short, "-l", strings.Join(flags.long, ","), "-n", "p", "--"}, args...)
	cmd := exec.Command("getopt", list...)
	cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH")}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, wantErr := cmd.Output()
	opts, words, err := flags.parse(args)
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("%q: %v; getopt: %v %s", args, err, wantErr, stderr.String())
	}
	if err != nil {
		// getopt goes on after a mistake and names all of them; ours is the first.
		first, _, _ := strings.Cut(stderr.String(), "\n")
		if "p: "+err.Error() != first {
			t.Fatalf("%q: %q; getopt: %q", args, "p: "+err.Error(), first)
		}
		return false
	}
	var got strings.Builder
	for _, o := range opts {
		dash := "-"
		if len(o.name) > 1 {
			dash = "--"
		}
		got.WriteString(" " + dash + o.name)
		if strings.Contains(flags.short, o.name+":") || contains(flags.long, o.name+":") {
			got.WriteString(" '" + o.value + "'")
		}
	}
	got.WriteString(" --")
	for _, w := range words {
		got.WriteString(" '" + w + "'")
	}
	if want := strings.TrimSuffix(string(out), "\n"); got.String() != want {
		t.Fatalf("%q:\n%s\ngetopt:\n%s", args, got.String(), want)
	}
	return true
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func parse(t *testing.T, program, line string, environ ...string) *Image {
	t.Helper()
	img, err := ParseImage(program, strings.Fields(line), environ, "amd64", "/home/u")
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return img
}

func TestParseImage(t *testing.T) {
	img := parse(t, DiskImageCreate, "-o out/i.qcow2 vm -a arm64 -x debian-minimal -p a,b -p c --image-size 2.5 -u -x --checksum",
		"DIB_RELEASE=bookworm", "BASH_FUNC_f%%=() { :; }")
	if d := cmp.Diff([]string{"base", "vm", "debian-minimal", "block-device-efi"}, img.All()); d != "" {
		t.Errorf("All (-want +got):\n%s", d)
	}
	for name, want := range map[string]string{
		"DIB_RELEASE": "bookworm", "ARCH": "arm64", "IMAGE_NAME": "out/i", "DIB_DEBUG_TRACE": "2", "DIB_IMAGE_SIZE": "2.5",
		"DIB_CHECKSUM": "1", "DIB_IMAGE_CACHE": "/home/u/.cache/image-create", "DIB_LOCKFILES": "/home/u/.cache/dib/lockfiles",
		"BASH_FUNC_f%%": "() { :; }",
	} {
		if got := img.Environ[name]; got != want {
			t.Errorf("%s = %q; want %q", name, got, want)
		}
	}
	if d := cmp.Diff([]string{"a", "b", "c"}, img.Packages); d != "" || !img.Uncompressed || img.Name != "out/i" {
		t.Errorf("packages (-want +got):\n%s; %+v", d, img)
	}
}

func TestAll(t *testing.T) {
	for _, c := range []struct{ program, line, want string }{
		{DiskImageCreate, "debian", "base debian"},
		{DiskImageCreate, "-n debian", "debian"},
		{DiskImageCreate, "vm debian", "base vm debian block-device-mbr"},
		{DiskImageCreate, "vm block-device-gpt debian", "base vm block-device-gpt debian"},
		{RamdiskImageCreate, "debian", "ramdisk base debian"},
		{RamdiskImageCreate, "-n --ramdisk-element dracut-ramdisk x", "dracut-ramdisk x"},
	} {
		if got := strings.Join(parse(t, c.program, c.line).All(), " "); got != c.want {
			t.Errorf("%s %s: %s; want %s", c.program, c.line, got, c.want)
		}
	}
}

func TestLogging(t *testing.T) {
	for _, c := range []struct {
		line, env string
		quiet     bool
	}{
		{"d", "X=", false}, {"--logfile f d", "X=", true}, {"--logfile f d", "DIB_QUIET=0", false}, {"d", "DIB_QUIET=1", true},
	} {
		if got := parse(t, DiskImageCreate, c.line, c.env).Quiet; got != c.quiet {
			t.Errorf("%s with %s: quiet %v", c.line, c.env, got)
		}
	}
}

func TestClear(t *testing.T) {
	img := parse(t, DiskImageCreate, "-c --offline -o n d", "SECRET=1", "HOME=/h", "PATH=/p", "DIB_RELEASE=x")
	if img.Environ["SECRET"] != "" || img.Environ["DIB_RELEASE"] != "" || img.Environ["HOME"] != "/h" ||
		img.Environ["DIB_OFFLINE"] != "1" || img.Environ["IMAGE_NAME"] != "n" {
		t.Errorf("environment %v", img.Environ)
	}
}

func TestOtherWishes(t *testing.T) {
	for line, want := range map[string]error{
		"-h": ErrHelp, "--help vm": ErrHelp, "--version": ErrVersion, "": ErrNoElement, "-u": ErrNoElement,
	} {
		if _, err := ParseImage(DiskImageCreate, strings.Fields(line), nil, "amd64", "/"); !errors.Is(err, want) {
			t.Errorf("%q: %v; want %v", line, err, want)
		}
	}
}

// What the originals document and refuse is taken, when it is written in full.
func TestDocumentedFlags(t *testing.T) {
	img := parse(t, DiskImageCreate, "--image-extra-size 1.5 --mkfs-journal-size=8 -c vm")
	if e := img.Environ; e["DIB_IMAGE_EXTRA_SIZE"] != "1536" || e["DIB_JOURNAL_SIZE"] != "8" {
		t.Errorf("extra size %q MiB, journal %q MiB", e["DIB_IMAGE_EXTRA_SIZE"], e["DIB_JOURNAL_SIZE"])
	}
	for _, line := range []string{"--image-extra 4 vm", "--image-extra-size lots vm", "--image-extra-size NaN vm"} {
		if _, err := ParseImage(DiskImageCreate, strings.Fields(line), nil, "amd64", "/"); err == nil {
			t.Errorf("%s: taken", line)
		}
	}
}

// The original's statuses and messages, for what it refuses before it builds.
func TestRefusalsAreTheOriginals(t *testing.T) {
	testenv.Need(t, "disk-image-create", "ramdisk-image-create")
	for _, args := range [][]string{
		{"--image-extra", "4", "vm"}, {"-Z"}, {"--off=1", "vm"}, {"-a"}, {"--m", "vm"},
	} {
		for _, program := range []string{DiskImageCreate, RamdiskImageCreate} {
			cmd := exec.Command(program, args...)
			cmd.Env = []string{"LC_ALL=C", "PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%s %q: the original ends with %v", program, args, err)
			}
			_, ours := ParseImage(program, args, nil, "amd64", "/")
			if ours == nil || !strings.Contains(string(out), program+": "+ours.Error()+"\n") {
				t.Errorf("%s %q: %v; the original says %s", program, args, ours, out)
			}
		}
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBatch(t *testing.T) {
	one := write(t, "one.yaml", `
- imagename: base
  types: [qcow2]
  elements: [vm]
  environment: {A: "1", B: it's}
  debug-trace: 2
  image-size: 4
- types: [raw]
  elements: [debian-minimal]
  environment: {A: "2"}
  debug-trace: 1
- imagename: deploy
  ramdisk: true
  elements: [d]
  skip-base: true
`)
	two := write(t, "two.yaml", "- imagename: base\n  packages: [x, y]\n  qemu-img-options: {compat: '0.10', size: 1G}\n  image-size: 5\n")
	got, err := Batch([]string{one, two})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range got {
		lines = append(lines, c.String())
	}
	want := []string{
		`A=2 B='it'"'"'s' disk-image-create -o base -t qcow2,raw -x --image-size 5 --qemu-img-options compat=0.10,size=1G -p x,y vm debian-minimal`,
		`ramdisk-image-create -o deploy -n d`,
	}
	if d := cmp.Diff(want, lines); d != "" {
		t.Errorf("Batch (-want +got):\n%s", d)
	}
}

func TestBatchRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                           ":1: expected a list of images, not a mapping",
		"- x":                            ":1: expected an image",
		"- imagename: a\n  elments: [x]": `:2: key "elments" is not known`,
		"- image-size: 0":                ":1: image-size: 0 is out of range",
		"- image-size: 2.5":              ":1: image-size: expected a whole number",
		"- debug-trace: 3":               ":1: debug-trace: 3 is out of range",
		"- arch: mips":                   `:1: arch: "mips" is none of`,
		"- types:\n  - vmdk":             `:2: types: "vmdk" is none of`,
		"- environment:\n    A: 1":       ":2: environment: A must be text; quote it",
		"- uncompressed: 'yes'":          ":1: uncompressed: expected true or false",
		"- elements: vm":                 ":1: elements: expected a list",
		"- elements: [{a: b}]":           ":1: elements: expected text",
		"- imagename: [a":                ":",
		"- environment: {A: x}\n  environment: 4": ":",
	} {
		path := write(t, "f.yaml", text)
		_, err := Batch([]string{path})
		if err == nil || !strings.Contains(err.Error(), path+want) || command.Status(err) != command.StatusUsage {
			t.Errorf("%q: %v; want …%s", text, err, want)
		}
	}
}
