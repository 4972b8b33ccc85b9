package vm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/command"
	"goldsmith/internal/testenv"
)

// TestMain is the program in the machine, too: with the argument "inside" it
// runs a shell command.
func TestMain(m *testing.M) {
	Init()
	if len(os.Args) == 3 && os.Args[1] == "inside" {
		c := exec.Command("bash", "-c", os.Args[2])
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			os.Exit(c.ProcessState.ExitCode())
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestReachable(t *testing.T) {
	for word, want := range map[string]string{
		"http_proxy=http://127.0.0.1:3128": "http://10.0.2.2:3128", "HTTPS_PROXY=http://u:p@localhost:8080/": "http://u:p@10.0.2.2:8080/",
		"ftp_proxy=http://[::1]:9": "http://10.0.2.2:9", "no_proxy=127.0.0.1": "127.0.0.1",
		"all_proxy=http://proxy.example:3128": "http://proxy.example:3128", "X=http://127.0.0.1:1": "http://127.0.0.1:1",
	} {
		name, value, _ := strings.Cut(word, "=")
		if got := Reachable(name, value); got != want {
			t.Errorf("Reachable(%s) = %q; want %q", word, got, want)
		}
	}
}

// Without a kernel that will do, the error says what each one lacks.
func TestFindKernelSaysWhatIsMissing(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"boot/vmlinuz-1.0":              "",
		"boot/vmlinuz-2.0":              "",
		"usr/lib/modules/2.0/kernel/9p": "",
		"usr/lib/modules/2.0/modules.dep": "kernel/virtio_pci.ko:\nkernel/virtio_blk.ko:\nkernel/virtio_net.ko:\n" +
			"kernel/virtio_rng.ko:\nkernel/9pnet_virtio.ko:\nkernel/9p.ko:\n",
		"usr/lib/modules/2.0/modules.builtin": "kernel/ext4.ko\n",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range needed {
		if err := os.WriteFile(filepath.Join(root, "usr/lib/modules/2.0/kernel", m+".ko"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	k, err := FindKernel([]string{t.TempDir(), root}, []string{"ext4"})
	if err != nil || k.Version != "2.0" || len(k.modules) != len(needed) {
		t.Errorf("FindKernel = %+v, %v; want 2.0 with %d modules", k, err, len(needed))
	}
	_, err = FindKernel([]string{root}, []string{"xfs"})
	if command.Status(err) != command.StatusMissing || !strings.Contains(err.Error(), "vmlinuz-2.0 lacks xfs") ||
		!strings.Contains(err.Error(), "vmlinuz-1.0: has no modules") || command.HintOf(err) == "" {
		t.Errorf("FindKernel = %v", err)
	}
}

// machineConfig is a machine that runs a shell command, with the host's
// kernel.
func machineConfig(t *testing.T, script string) (Config, *bytes.Buffer) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, program, "mke2fs")
	k, err := FindKernel([]string{"/"}, []string{"ext4"})
	if err != nil {
		testenv.Missing(t, err.Error())
	}
	// This test's own binary may need libraries.
	static := filepath.Join(t.TempDir(), "vm.test")
	build := exec.Command("go", "test", "-c", "-o", static, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	executable = func() (string, error) { return static, nil }
	t.Cleanup(func() { executable = os.Executable })
	var out bytes.Buffer
	return Config{Kernel: k, Scratch: t.TempDir(), Args: []string{"inside", script}, Log: &out}, &out
}

// The machine has the host's files, a disk of its own, and says how the
// program ended.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	c, out := machineConfig(t, fmt.Sprintf(`set -e
mke2fs -q -t ext4 /dev/vda
mount /dev/vda /mnt
echo kept > /mnt/file
umount /mnt
[ "$(cat %[1]s/given)" = "from outside" ]
echo "$WORD $PWD $(hostname)" > %[1]s/result
echo said
exit 7`, dir))
	disk := filepath.Join(dir, "disk")
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 32<<20),
		os.WriteFile(filepath.Join(dir, "given"), []byte("from outside\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	c.Disks, c.Dir, c.Env = []Disk{{Path: disk}}, dir, []string{"WORD=word", "PATH=" + os.Getenv("PATH")}
	err := Run(t.Context(), c)
	x, ok := errors.AsType[*command.ExitError](err)
	if !ok || x.Status != 7 {
		t.Fatalf("Run = %v; want exit status 7; output:\n%s", err, out)
	}
	if !strings.HasSuffix(strings.TrimSpace(out.String()), "said") {
		t.Errorf("output %q; want what the program said", out)
	}
	host, _ := os.Hostname()
	if got, want := read(t, filepath.Join(dir, "result")), fmt.Sprintf("word %s %s\n", dir, host); got != want {
		t.Errorf("the program wrote %q; want %q", got, want)
	}
	content, err := exec.Command("debugfs", "-R", "cat /file", disk).Output()
	if err != nil || string(content) != "kept\n" {
		t.Errorf("file on the disk: %q, %v", content, err)
	}
	left, err := filepath.Glob(filepath.Join(c.Scratch, "vm-initrd"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
