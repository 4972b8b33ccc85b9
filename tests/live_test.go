package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
	"goldsmith/testbed"
	"goldsmith/testbed/qemu"
)

// A live system starts from a CD, from a USB stick, and from a kernel with its
// initial RAM disk; what is made beside it is what other programs take it for.
func TestLive(t *testing.T) {
	need(t, false)
	testenv.Need(t, "mksquashfs", "unsquashfs", "skopeo", "qemu-img")
	code, vars, err := testbed.UEFI.Files()
	if err != nil {
		testenv.Missing(t, err.Error())
	}
	text, err := os.ReadFile("../ci/demo/image.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const outputs = "outputs: [raw]"
	if !strings.Contains(string(text), outputs) {
		t.Fatalf("the demo has no %q", outputs)
	}
	dir := t.TempDir()
	live := strings.Replace(string(text), outputs, "outputs: [iso, kernel+initramfs, oci, vmdk, squashfs]", 1)
	build(t, dir, live, nil)

	release := tool(t, dir, "unsquashfs", "-cat", "demo.squashfs", "usr/lib/os-release")
	if !strings.Contains(release, "ID=debian\n") {
		t.Errorf("os-release of the squashfs: %s", release)
	}
	tool(t, dir, "qemu-img", "check", "-f", "vmdk", "demo.vmdk")
	var container struct {
		Architecture string
		Config       struct{ Cmd []string }
	}
	config := tool(t, dir, "skopeo", "inspect", "--config", "oci-archive:demo.oci.tar:1")
	if err := json.Unmarshal([]byte(config), &container); err != nil {
		t.Fatal(err)
	}
	if container.Architecture != "amd64" || !slices.Equal(container.Config.Cmd, []string{"/sbin/init"}) {
		t.Errorf("the container image is %s", config)
	}

	firmware := []string{"-drive", "if=pflash,format=raw,readonly=on,file=" + code,
		"-drive", "if=pflash,format=raw,snapshot=on,file=" + vars}
	iso := filepath.Join(dir, "demo.iso")
	for _, b := range []struct {
		name string
		args []string
	}{
		{"CD", append(firmware, "-cdrom", iso)},
		{"USB stick", append(firmware, "-device", "qemu-xhci", "-device", "usb-storage,drive=stick",
			"-drive", "if=none,id=stick,format=raw,snapshot=on,file="+iso)},
		{"initrd", []string{"-kernel", filepath.Join(dir, "demo.vmlinuz"), "-initrd", filepath.Join(dir, "demo.initrd"),
			"-append", "console=ttyS0 quiet panic=10"}},
	} {
		t.Run(b.name, func(t *testing.T) {
			t.Logf("login after %.0f s", boot(t, b.args, "login:").Seconds())
		})
	}
}

// vendorImage makes what distributions offer as cloud images: one partition
// with an ext4, in a qcow2, and a list of checksums.
const vendorImage = `set -eu -o pipefail
mmdebstrap --mode=root --format=directory --variant=minbase \
    --include=linux-image-amd64,systemd-sysv,udev bookworm root
echo vendor >root/etc/vendor
echo 'LABEL=cloudimg / ext4 defaults 0 1' >root/etc/fstab
mke2fs -q -t ext4 -L cloudimg -d root root.ext4 2G
truncate -s 2050M vendor.raw
sgdisk -n 1:1M:+2G -t 1:4f68bce3-e8cd-4db1-96e7-fbcaf984b709 vendor.raw
dd if=root.ext4 of=vendor.raw bs=1M seek=1 conv=notrunc,sparse status=none
qemu-img convert -c -O qcow2 vendor.raw vendor.qcow2
sha256sum vendor.qcow2 >SHA256SUMS
rm -r root root.ext4 vendor.raw
`

// An image that somebody else has made is customised by our elements, and
// boots from our disk.
func TestBaseImage(t *testing.T) {
	need(t, false)
	testenv.Need(t, "mmdebstrap", "mke2fs", "sgdisk", "qemu-img", "tar")
	dir := t.TempDir()
	tool(t, dir, "bash", "-c", vendorImage)
	build(t, dir, `name: custom
release: bookworm
elements: [base-image, boot, read-only-root, network, ssh-server]
environment:
  DISTRO_NAME: debian
  BASE_IMAGE: `+dir+`/vendor.qcow2
  BASE_IMAGE_SUMS: `+dir+`/SHA256SUMS
outputs: [raw, tar]
`, []string{"XDG_CACHE_HOME=" + t.TempDir()}) // the base tree is of no use again
	for file, want := range map[string]string{
		"./etc/vendor": "vendor\n", "./var/lib/dpkg/info/openssh-server.list": "/usr/sbin/sshd\n", "./etc/fstab": "",
	} {
		got := tool(t, dir, "tar", "-xOf", "custom.tar", file)
		if !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s is %q; want %q", file, got, want)
		}
	}
	took := login(t, qemu.Config{Image: filepath.Join(dir, "custom.raw"), Firmware: testbed.UEFI})
	t.Logf("login after %.0f s", took.Seconds())
}

// build builds the image of a definition into dir.
func build(t *testing.T, dir, definition string, env []string) {
	t.Helper()
	file := filepath.Join(dir, "image.yaml")
	if err := os.WriteFile(file, []byte(definition), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, []string{"imgbuild", "build", file, "-o", dir}, env, 0)
}

// tool runs a program in dir, which must end well, and returns what it prints.
func tool(t *testing.T, dir string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Stderr = dir, &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}
