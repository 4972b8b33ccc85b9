package dibargs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"goldsmith/internal/testenv"
)

const originalLib = "/usr/lib/python3/dist-packages/diskimage_builder/lib"

// standIn takes the place of Python under the original's script: it resolves
// no elements and lets output through.
const standIn = `#!/bin/bash
case "$1" in
    */element-info.py) shift 2; echo "export IMAGE_ELEMENT='$*'" ;;
    */outfilter.py) exec cat ;;
    *) echo stand-in ;;
esac
`

// results are the shell variables that the original has when it has read its
// command line, one a line, each word behind a blank and in brackets.
const results = `
say() { printf '%s' "$1"; shift; printf ' [%s]' "$@"; printf '\n'; }
for v in ARCH IMAGE_NAME COMPRESS_IMAGE DIB_DEBUG_TRACE DIB_CHECKSUM DIB_IMAGE_SIZE DIB_IMAGE_CACHE MAX_ONLINE_RESIZE \
    MKFS_OPTS DIB_MIN_TMPFS DIB_NO_TMPFS DIB_OFFLINE QEMU_IMG_OPTIONS ROOT_LABEL DIB_DEFAULT_INSTALLTYPE DOCKER_TARGET \
    LOGFILE DIB_LOCKFILES; do
    say $v "${!v}"
done >"$ORACLE_RESULT"
{ say IMAGE_TYPES "${IMAGE_TYPES[@]}"; say INSTALL_PACKAGES ${INSTALL_PACKAGES[@]}; say ELEMENTS $IMAGE_ELEMENT; } >>"$ORACLE_RESULT"
exit 0
`

// cutOriginal makes a directory with the original's programs, which end when
// they have read their command line.
func cutOriginal(t *testing.T) string {
	t.Helper()
	testenv.NeedFile(t, originalLib)
	testenv.Need(t, "bash", "getopt", "dpkg")
	script, err := os.ReadFile(filepath.Join(originalLib, DiskImageCreate))
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := strings.Cut(string(script), "# Check for required tools early on")
	if !ok {
		t.Fatal("the original's script has changed")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		DiskImageCreate: before + results, RamdiskImageCreate: before + results, "python": standIn,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ours are the same variables of a parsed command line.
func ours(img *Image) string {
	e := img.Environ
	compress := "true"
	if img.Uncompressed {
		compress = ""
	}
	var b strings.Builder
	say := func(name string, words ...string) {
		if len(words) == 0 {
			words = []string{""}
		}
		b.WriteString(name + " [" + strings.Join(words, "] [") + "]\n")
	}
	installType := img.InstallType
	if installType == "" {
		installType = "source"
	}
	// What the original sets where nobody did.
	def := func(name, value string) string {
		if e[name] == "" {
			return value
		}
		return e[name]
	}
	for _, v := range [][2]string{
		{"ARCH", img.Arch}, {"IMAGE_NAME", img.Name}, {"COMPRESS_IMAGE", compress}, {"DIB_DEBUG_TRACE", e["DIB_DEBUG_TRACE"]},
		{"DIB_CHECKSUM", def("DIB_CHECKSUM", "0")}, {"DIB_IMAGE_SIZE", e["DIB_IMAGE_SIZE"]}, {"DIB_IMAGE_CACHE", img.ImageCache},
		{"MAX_ONLINE_RESIZE", img.MaxResize}, {"MKFS_OPTS", img.MkfsOptions}, {"DIB_MIN_TMPFS", def("DIB_MIN_TMPFS", "2")},
		{"DIB_NO_TMPFS", def("DIB_NO_TMPFS", "0")}, {"DIB_OFFLINE", e["DIB_OFFLINE"]}, {"QEMU_IMG_OPTIONS", img.QemuOptions},
		{"ROOT_LABEL", img.RootLabel}, {"DIB_DEFAULT_INSTALLTYPE", installType}, {"DOCKER_TARGET", img.DockerTarget},
		{"LOGFILE", img.LogFile}, {"DIB_LOCKFILES", img.LockFiles},
	} {
		say(v[0], v[1])
	}
	say("IMAGE_TYPES", img.Types...)
	say("INSTALL_PACKAGES", img.Packages...)
	say("ELEMENTS", img.All()...)
	return b.String()
}

// TestOracle holds the reading of command lines and environments to the
// original's script: what every variable is, and the exit status.
func TestOracle(t *testing.T) {
	dir := cutOriginal(t)
	home := t.TempDir()
	out, err := exec.Command("dpkg", "--print-architecture").Output()
	if err != nil {
		t.Fatal(err)
	}
	arch := strings.TrimSpace(string(out))
	word := rapid.SampledFrom([]string{
		"vm", "debian", "block-device-gpt", "-a arm64", "-a amd64", "-o out/img", "-o img.qcow2", "-o a.raw.raw", "-t raw", "-t qcow2,raw",
		"-t vmdk,,raw", "-x", "-xx", "-xu", "-n", "-p a", "-p b,c", "-pd,,e", "--checksum", "--image-size 2.5", "--image-size=7",
		"--image-cache CACHE", "--max-online-resize 99", "--mkfs-options -O^x", "--min-tmpfs 4", "--no-tmpfs", "--off",
		"--qemu-img-options a=b,c=d", "--root-label l", "--ramdisk-element dracut-ramdisk", "--install-type package",
		"--docker-target r:t", "--logfile LOG", "-p x~y,z", "debian", "vm", "-n", "-t tgz", "-o x.tgz", "-t raw,",
	})
	last := rapid.SampledFrom([]string{"debian", "debian", "vm", "d", "d", "-- d", "--image-extra 3", "-Z", "--help", "--version", ""})
	variable := rapid.SampledFrom([]string{
		"ARCH=ppc64el", "IMAGE_NAME=fromenv", "DIB_DEBUG_TRACE=1", "DIB_CHECKSUM=sha256", "DIB_IMAGE_SIZE=9", "DIB_OFFLINE=1",
		"DIB_NO_TMPFS=1", "DIB_MIN_TMPFS=7", "SKIP_BASE=1", "RAMDISK_ELEMENT=other", "DIB_DEFAULT_INSTALLTYPE=package",
		"MAX_ONLINE_RESIZE=5", "DIB_QUIET=1", "MKFS_OPTS=ignored", "ROOT_LABEL=ignored", "DOCKER_TARGET=ignored",
		"LOGFILE=ignored", "DIB_JOURNAL_SIZE=8", "DIB_LOCKFILES=LOCK",
	})
	line := rapid.Custom(func(t *rapid.T) [3][]string {
		return [3][]string{
			{rapid.SampledFrom([]string{DiskImageCreate, DiskImageCreate, RamdiskImageCreate}).Draw(t, "program")},
			append(rapid.SliceOfN(word, 0, 7).Draw(t, "words"), last.Draw(t, "last")),
			rapid.SliceOfN(variable, 0, 3).Draw(t, "environment"),
		}
	})
	place := strings.NewReplacer("CACHE", home+"/c", "LOG", home+"/log", "LOCK", home+"/lock")
	taken, refused := 0, 0
	for seed := range 100 {
		c := line.Example(seed)
		program := c[0][0]
		args := strings.Fields(place.Replace(strings.Join(c[1], " ")))
		for i, a := range args {
			args[i] = strings.ReplaceAll(a, "~", " ")
		}
		environ := []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		for _, v := range c[2] {
			name, value, _ := strings.Cut(v, "=")
			environ = append(environ, name+"="+place.Replace(value))
		}
		result := filepath.Join(dir, "result"+strconv.Itoa(seed))
		cmd := exec.Command("bash", append([]string{filepath.Join(dir, program)}, args...)...)
		cmd.Env = append(slices.Clone(environ), "_LIB="+originalLib, "DIB_PYTHON_EXEC="+dir+"/python", "ORACLE_RESULT="+result)
		said, runErr := cmd.CombinedOutput()
		want, _ := os.ReadFile(result)
		img, err := ParseImage(program, args, environ, arch, home)
		switch {
		case errors.Is(err, ErrHelp) || errors.Is(err, ErrVersion):
			if runErr != nil || len(want) > 0 {
				t.Errorf("%s %q: %v; the original: %v\n%s", program, args, err, runErr, said)
			}
			refused++
		case err != nil:
			if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%s %q: %v; the original: %v\n%s", program, args, err, runErr, said)
			}
			refused++
		case runErr != nil:
			t.Errorf("%s %q %q: taken; the original: %v\n%s", program, args, c[2], runErr, said)
		default:
			if d := cmp.Diff(string(want), ours(img)); d != "" {
				t.Errorf("%s %q with %q (-original +ours):\n%s", program, args, c[2], d)
			}
			taken++
		}
	}
	testenv.Proof(t, testenv.Row{
		Matter: "command lines of disk-image-create and ramdisk-image-create: 21 variables and status",
		Equal:  taken, Refused: refused,
	})
}
