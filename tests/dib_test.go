package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
)

// realBuild is an image made of diskimage-builder's unmodified elements.
type realBuild struct {
	name     string
	elements []string
	env      []string
	firmware []testbed.Firmware
	size     int // MiB of memory; 0 means 1024
}

var realBuilds = []realBuild{
	{"efi", []string{"debian-minimal", "vm", "block-device-efi"}, nil,
		[]testbed.Firmware{testbed.UEFI, testbed.BIOS}, 0},
	{"mbr", []string{"debian-minimal", "vm", "block-device-mbr", "cloud-init"}, nil,
		[]testbed.Firmware{testbed.BIOS}, 0},
	{"lvm", []string{"debian-minimal", "vm", "block-device-efi-lvm", "lvm-root"},
		[]string{"DIB_IMAGE_SIZE=48"}, []testbed.Firmware{testbed.UEFI}, 0},
}

// Images of diskimage-builder's elements are built and boot to a login.
func TestRealBuilds(t *testing.T) {
	need(t, false)
	testenv.Need(t, "mkfs.xfs", "lvm", "debootstrap")
	for _, b := range realBuilds {
		t.Run(b.name, func(t *testing.T) {
			dir := t.TempDir()
			image := filepath.Join(dir, b.name)
			args := append([]string{"disk-image-create", "-o", image, "-t", "qcow2,raw", "--checksum"}, b.elements...)
			run(t, args, append(dibEnv(t), b.env...), 0)
			checkDisk(t, image)
			for _, f := range b.firmware {
				took := login(t, qemu.Config{Image: image + ".qcow2", Firmware: f, MemoryMiB: b.size})
				t.Logf("%s: login under %s after %.0f s", b.name, f, took.Seconds())
			}
		})
	}
}

// A ramdisk is built by the unmodified element ramdisk, and its init runs to
// the end.
func TestRamdisk(t *testing.T) {
	need(t, false)
	dir := t.TempDir()
	name := filepath.Join(dir, "deploy")
	run(t, []string{"ramdisk-image-create", "-o", name, "debian-minimal", "ramdisk-login"}, dibEnv(t), 0)
	took := boot(t, []string{"-kernel", name + ".kernel", "-initrd", name + ".initramfs", "-append",
		"console=ttyS0"}, "login:")
	t.Logf("ramdisk: login after %.0f s", took.Seconds())
}

// A fake operating system needs nothing but this host: its file system is
// made in the build's machine, and boots with the host's kernel.
func TestFakeOS(t *testing.T) {
	need(t, true)
	testenv.Need(t, "e2fsck", "busybox", "qemu-img")
	dir := t.TempDir()
	image := filepath.Join(dir, "fake")
	env := append(dibEnv(t), "DIB_IMAGE_SIZE=0.2", "DIB_JOURNAL_SIZE=8")
	run(t, []string{"disk-image-create", "-n", "-o", image, "-t", "raw,qcow2,tar", "--root-label", "fake",
		"fake-os"}, env, 0)
	for _, cmd := range [][]string{{"e2fsck", "-fn", image + ".raw"},
		{"qemu-img", "compare", image + ".raw", image + ".qcow2"}} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", cmd, err, out)
		}
	}
	fstab, err := exec.Command("tar", "-xOf", image+".tar", "./etc/fstab").Output()
	if err != nil || string(fstab) != "LABEL=fake / ext4 defaults 0 1\n" {
		t.Errorf("fstab %q, %v", fstab, err)
	}
	kernels, _ := filepath.Glob("/boot/initrd.img-*")
	if len(kernels) == 0 {
		testenv.Missing(t, "no kernel with an initramfs in /boot: run ci/install-deps.sh")
	}
	initrd := kernels[len(kernels)-1]
	kernel := strings.Replace(initrd, "initrd.img-", "vmlinuz-", 1)
	took := boot(t, []string{"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 root=LABEL=fake rw",
		"-drive", "file=" + image + ".raw,format=raw,if=virtio,snapshot=on"}, "login:")
	t.Logf("fake-os: login after %.0f s", took.Seconds())
}

// A build whose machine is killed leaves nothing running, and the next build
// clears away what it left in the cache.
func TestKilledMachine(t *testing.T) {
	need(t, true)
	dir := t.TempDir()
	cache := t.TempDir()
	mark := "GOLDSMITH_TEST_MARK=dib-" + filepath.Base(dir)
	env := append(dibEnv(t), mark, "XDG_CACHE_HOME="+cache)
	cmd, out := program{[]string{"disk-image-create", "-n", "-o", filepath.Join(dir, "fake"), "-t", "raw",
		"fake-os"}, env}.command(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if n, _ := filepath.Glob(filepath.Join(cache, "goldsmith/work/build-*/vm-console.log")); len(n) > 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the machine never started:\n%s", out)
		}
	}
	time.Sleep(3 * time.Second)
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	checkGone(t, mark, cache)
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("outputs of a killed build: %v", left)
	}
	run(t, []string{"disk-image-create", "-n", "-o", filepath.Join(dir, "fake"), "-t", "tar", "fake-os"}, env, 0)
	if left, _ := filepath.Glob(filepath.Join(cache, "goldsmith/work/build-*")); len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

// dibEnv is the environment of a build that uses the tests' elements.
func dibEnv(t *testing.T) []string {
	t.Helper()
	dir, err := filepath.Abs("testdata/dib")
	if err != nil {
		t.Fatal(err)
	}
	return []string{"ELEMENTS_PATH=" + dir, "DIB_RELEASE=bookworm", "DIB_NO_TIMESTAMP=1"}
}

// run runs a program that has to end with a status.
func run(t *testing.T, args, env []string, want int) {
	t.Helper()
	start := time.Now()
	if status, _ := (program{args, env}).run(t); status != want {
		t.Fatalf("%s: status %d; want %d", strings.Join(args, " "), status, want)
	}
	t.Logf("%s: %.0f s", args[0], time.Since(start).Seconds())
}

// checkDisk holds an image's disk, checksums and manifest to each other.
func checkDisk(t *testing.T, image string) {
	t.Helper()
	dir, name := filepath.Split(image)
	for _, args := range [][]string{
		{"qemu-img", "compare", name + ".raw", name + ".qcow2"}, {"sfdisk", "--verify", name + ".raw"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	sums, err := os.ReadFile(image + ".qcow2.sha256")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Outputs []struct{ Format, Path, SHA256 string }
	}
	text, err := os.ReadFile(image + ".manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	if len(m.Outputs) == 0 || m.Outputs[0].Path != name+".qcow2" ||
		!strings.HasPrefix(string(sums), m.Outputs[0].SHA256) {
		t.Errorf("manifest %+v and checksum %s do not agree", m.Outputs, sums)
	}
}

// loginLimit is how long a boot may take on a loaded machine.
const loginLimit = 10 * time.Minute

// login starts an image and waits until it asks who is there.
func login(t *testing.T, c qemu.Config) time.Duration {
	t.Helper()
	console := &watched{words: []string{"login:"}, seen: make(chan struct{})}
	c.Console = console
	return console.wait(t, func(ctx context.Context) error { return qemu.Run(ctx, c) })
}

// boot starts QEMU with more arguments and waits for one of the words.
func boot(t *testing.T, args []string, words ...string) time.Duration {
	t.Helper()
	console := &watched{words: words, seen: make(chan struct{})}
	accel := testbed.Accelerator(t.Context())
	all := append([]string{"-nodefaults", "-no-reboot", "-display", "none", "-machine", "q35", "-accel",
		accel, "-cpu", "max",
		"-smp", "2", "-m", "1536", "-device", "virtio-rng-pci", "-serial", "stdio"}, args...)
	return console.wait(t, func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, "qemu-system-x86_64", all...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		cmd.Stdout, cmd.Stderr = console, console
		return cmd.Run()
	})
}

// watched is a console that tells when it has shown a word.
type watched struct {
	words []string
	seen  chan struct{}

	mu   sync.Mutex // guards the rest
	text bytes.Buffer
	done bool
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	for _, word := range w.words {
		if !w.done && bytes.Contains(w.text.Bytes(), []byte(word)) {
			w.done = true
			close(w.seen)
		}
	}
	return len(p), nil
}

// wait runs a machine until its console has shown a word.
func (w *watched) wait(t *testing.T, machine func(context.Context) error) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), loginLimit)
	defer cancel()
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- machine(ctx) }()
	var err error
	select {
	case <-w.seen:
		took := time.Since(start)
		cancel()
		<-ended
		return took
	case err = <-ended:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	t.Fatalf("none of %q on the console: %v\n%s", w.words, errors.Join(err, ctx.Err()), w.text.String())
	return 0
}

// A build of a disk works on a terminal, whose input it leaves alone: QEMU must
// not be stopped for touching it from the background.
func TestOnTerminal(t *testing.T) {
	need(t, true)
	testenv.Need(t, "script", "timeout")
	bin := built(t, "disk-image-create")
	dir := t.TempDir()
	cmd := exec.Command("timeout", "240", "script", "-qec", bin+" -n -t raw -o "+dir+"/t fake-os; cat", "/dev/null")
	cmd.Env = append(append(os.Environ(), dibEnv(t)...), "DIB_IMAGE_SIZE=0.2", "DIB_JOURNAL_SIZE=8")
	cmd.Stdin = strings.NewReader("for the next\n\x04")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("Build completed successfully")) ||
		bytes.Count(out, []byte("for the next")) < 2 { // the terminal's echo, and cat
		t.Errorf("%v\n%s", err, out)
	}
}

// A definition whose elements bring a block device gets that disk, cleaned of
// what belongs to the build like any other image of ours.
func TestDefinitionWithBlockDevice(t *testing.T) {
	need(t, true)
	testenv.Need(t, "e2fsck", "debugfs", "sgdisk", "mtype", "dd")
	dir := t.TempDir()
	definition := filepath.Join(dir, "i.yaml")
	text := "name: i\nrelease: test\nsize: 256MiB\nelements: [fake-os, fake-disk]\noutputs: [raw]\nenvironment: {DIB_JOURNAL_SIZE: \"8\"}\n"
	if err := os.WriteFile(definition, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	// A proxy on this host's loopback has another address in the machine.
	run(t, []string{"imgbuild", "build", definition, "-o", dir}, append(dibEnv(t), "http_proxy=http://127.0.0.1:9"), 0)
	shell := func(script, want string) {
		t.Helper()
		cmd := exec.Command("bash", "-c", "set -eu -o pipefail\n"+script)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s\nwant %q", script, err, out, want)
		}
	}
	shell("sgdisk -v i.raw", "No problems found")
	shell("dd if=i.raw of=esp bs=1M skip=1 count=64 status=none; mtype -i esp ::/EFI/devices",
		"/dev/vda /dev/vda3 system /boot/efi|/ http://10.0.2.2:9\n")
	shell("dd if=i.raw of=root bs=1M skip=81 status=none; e2fsck -fn root", "")
	shell("debugfs -R 'cat /etc/fstab' root 2>/dev/null",
		"LABEL=system / ext4 defaults 0 1\nLABEL=MKFS_ESP /boot/efi vfat umask=0077 0 2\n")
	shell("debugfs -R 'stat /etc/ssh/ssh_host_test_key' root 2>&1", "File not found")
	shell("debugfs -R 'stat /etc/machine-id' root 2>&1", "Size: 0")
}

// What the driver tells hooks is the original's, in and out of the image.
func TestEnvironmentIsTheOriginals(t *testing.T) {
	need(t, true)
	testenv.Need(t, "unshare", "sudo", "ldd")
	const original = "/usr/bin/disk-image-create"
	testenv.NeedFile(t, original)
	args := []string{"-n", "-x", "-o", "/tmp/not-made", "-t", "raw", "--offline", "fake-os", "dump-environment"}
	env := append(dibEnv(t), "PATH="+os.Getenv("PATH"), "LC_ALL=C", "DIB_NO_TMPFS=1",
		"DIB_PYTHON_EXEC=/usr/bin/python3", "DIB_TOLD=a \"b\" $c \\", "TMPDIR=/tmp")
	dump := func(command ...string) string {
		dir := t.TempDir()
		cmd := exec.Command(command[0], append(command[1:], args...)...)
		cmd.Env = append(env, "DUMP="+dir, "HOME="+t.TempDir()) // and nothing of the caller's, which would be counted
		if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 7 {
			t.Fatalf("%v: %v; want status 7\n%s", command, err, out)
		}
		return dir
	}
	ours := built(t, "disk-image-create")
	theirDir := dump("unshare", "--mount", "/usr/bin/python3", original)
	ourDir := dump(ours)
	// Not ours to have, or another text of the same meaning: where things lie,
	// shells in between, tracing, sudo's marks, and the array's order.
	differs := map[string]bool{
		"PS4": true, "BASH_FUNC__ps4%%": true, "SHLVL": true, "PWD": true, "OLDPWD": true, "_": true,
		"HOME": true, "DUMP": true,
		"ELEMENTS_PATH": true, "_LIB": true, "BASH_FUNC_die%%": true, "BASH_FUNC_get_image_element_array%%": true,
		"IMAGE_ELEMENT": true, "DIB_IMAGE_CACHE": true, "DIB_LOCKFILES": true, "DIB_BLOCK_DEVICE_PARAMS_YAML": true,
		"TMP_BUILD_DIR": true, "TMP_HOOKS_PATH": true, "TMP_IMAGE_DIR": true, "TMP_MOUNT_PATH": true,
		"TARGET_ROOT": true,
	}
	insideOnly := map[string]bool{
		"PATH": true, "USER": true, "LOGNAME": true, "MAIL": true,
		"SUDO_COMMAND": true, "SUDO_GID": true, "SUDO_UID": true, "SUDO_USER": true,
	}
	equal, different, places := 0, 0, 0
	for _, phase := range []string{"root", "host", "inside", "after"} {
		theirs, mine := variables(t, theirDir+"/"+phase), variables(t, ourDir+"/"+phase)
		for name, want := range theirs {
			got, there := mine[name]
			switch {
			case name == "LC_CTYPE": // by the original's Python, PEP 538
			case name == "PS4" || name == "BASH_FUNC__ps4%%" || phase == "inside" && insideOnly[name]:
				different++
			case !there:
				t.Errorf("%s: %s is not there; the original has %q", phase, name, want)
			case differs[name]:
				places++
			case got != want:
				t.Errorf("%s: %s = %q; the original has %q", phase, name, got, want)
			default:
				equal++
			}
		}
	}
	testenv.Proof(t, testenv.Row{
		Matter: "variables of the driver's hooks, in and out of the image", Equal: equal,
		Different: []testenv.Difference{
			{Cases: places, Why: "they name places, or say the same in another form, and are only looked for"},
			{Cases: different, Why: "`PS4`; in the image sudo's marks and `PATH`, which ours need not have"},
		},
	})
}

func variables(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for word := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00"), "\x00") {
		name, value, _ := strings.Cut(word, "=")
		out[name] = value
	}
	return out
}
