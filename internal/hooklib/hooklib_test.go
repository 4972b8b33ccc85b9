package hooklib

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/testenv"
)

const originalLib = "/usr/lib/python3/dist-packages/diskimage_builder/lib"

// result is what a script did.
type result struct {
	Status int
	Out    string
}

// script runs bash text with _LIB as lib in a directory that setup filled.
// D is that directory; its name does not appear in the result.
func script(t *testing.T, lib, setup, text string) result {
	t.Helper()
	dir := t.TempDir()
	run := func(text string) ([]byte, error) {
		cmd := exec.Command("bash", "-c", text)
		cmd.Dir = dir
		cmd.Env = []string{
			"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "D=" + dir, "_LIB=" + lib, "LC_ALL=C", "HOME=/root",
			"DIB_PYTHON_EXEC=/usr/bin/python3", "TMPDIR=" + dir, "_BASE_ELEMENT_DIR=/base",
		}
		return cmd.CombinedOutput()
	}
	if out, err := run("set -eu; " + setup); err != nil {
		t.Fatalf("setup: %v: %s", err, out)
	}
	out, err := run(text)
	r := result{Out: strings.ReplaceAll(string(out), dir, "D")}
	if err != nil {
		r.Status = err.(*exec.ExitError).ExitCode()
	}
	return r
}

func ours(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "lib")
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

const (
	functions = `set -eu -o pipefail; source $_LIB/die; source $_LIB/common-functions; source $_LIB/img-functions; `
	kernel    = functions + `select_boot_kernel_initrd $D; echo "$KERNEL:$RAMDISK:$BOOTDIR:$TARGET_ROOT:${KERNEL_VERSION:-}"`
	ramdisk   = `source $_LIB/die; source $_LIB/common-functions; source $_LIB/ramdisk-functions; set -e; `
	elements  = `
get_image_element_array() { echo "[a]=$D/els/a [b]=$D/els/b"; }
`
)

// The same script does the same with the original's library and with ours.
func TestAgainstTheOriginal(t *testing.T) {
	testenv.NeedFile(t, originalLib+"/common-functions")
	lib := ours(t)
	for name, c := range map[string]struct{ setup, text string }{
		"defaults": {"", `set -eu; source $_LIB/img-defaults; source $_LIB/ramdisk-defaults
			env | grep -E '^(ARCH|DIB_|FS_|IMAGE|ELEMENTS|PATH|RAMDISK)'; echo "$MODULE_ROOT$LIB_UDEV_ROOT"`},
		"defaults that are set": {"", `export ARCH=arm64 ELEMENTS_PATH=/a:/b FS_TYPE=xfs DIB_MODULE_ROOT=/m DIB_MIN_TMPFS=9 PATH=/usr/sbin:/bin:/usr/bin
			source $_LIB/img-defaults; source $_LIB/ramdisk-defaults
			env | grep -E '^(ARCH|DIB_|FS_|IMAGE|ELEMENTS|PATH|RAMDISK)'; echo "$MODULE_ROOT"`},
		"die":                     {"", functions + `false || die one "two words" ; echo not reached`},
		"die with status":         {"", functions + `(exit 7) || die seven`},
		"die in a child":          {"", `source $_LIB/die; bash -c 'false || die child'`},
		"tmpfs":                   {"", functions + `DIB_NO_TMPFS=0 DIB_MIN_TMPFS=0; tmpfs_check && echo yes; DIB_NO_TMPFS=1; tmpfs_check || echo no`},
		"tmpfs too small, silent": {"", functions + `DIB_NO_TMPFS=0 DIB_MIN_TMPFS=1000000; tmpfs_check 0 || echo no`},
		"check_break":             {"", functions + `break=before-x,after-yy; check_break before-x echo in; check_break after-y echo never; check_break before echo never`},
		"check_break, unset":      {"", functions + `check_break before-x echo never`},
		"run_d": {"mkdir -p h/a.d; printf '#!/bin/sh\\necho one $1\\n' >h/a.d/10-x; chmod +x h/a.d/10-x",
			`source $_LIB/die; source $_LIB/common-functions; TMP_HOOKS_PATH=$D/h; run_d a $D/out 2>/dev/null; cat $D/out; run_d b`},
		"run_d that fails": {"mkdir -p h/a.d; printf '#!/bin/sh\\nexit 4\\n' >h/a.d/10-x; chmod +x h/a.d/10-x",
			`source $_LIB/die; source $_LIB/common-functions; TMP_HOOKS_PATH=$D/h; set -e; run_d a 2>/dev/null; echo not reached`},
		"eval_run_d": {"mkdir -p h/a.d; printf '#!/bin/sh\\necho X=5\\necho Y=6\\n' >h/a.d/10-x; chmod +x h/a.d/10-x",
			`source $_LIB/die; source $_LIB/common-functions; TMP_HOOKS_PATH=$D/h; eval_run_d a X= 2>/dev/null; echo "$X${Y:-}"`},
		"generate_hooks": {"mkdir -p els/a/install.d els/a/static/etc els/a/tests els/b/install.d; touch els/a/install.d/10-a els/a/tests/x els/b/install.d/20-b; " +
			"echo a >els/a/static/etc/f; ln -s nowhere els/b/install.d/link; echo d >els/a/element-deps; touch els/a/x.pyc",
			`source $_LIB/die; source $_LIB/common-functions; ` + elements + `TMP_HOOKS_PATH=$D/h; generate_hooks >/dev/null; find h | sort; cat h/static/etc/f`},
		"generate_hooks, duplicate": {"mkdir -p els/a/install.d els/b/install.d; touch els/a/install.d/10-a els/b/install.d/10-a",
			`source $_LIB/die; source $_LIB/common-functions; ` + elements + `TMP_HOOKS_PATH=$D/h; (generate_hooks) >$D/log; echo $?; grep -c duplicated $D/log`},
		"mount options":               {"", functions + `mount_dev_pts_options`},
		"unmount_dir of no directory": {"", functions + `unmount_dir $D/none; echo $?`},
		"finish_image": {"echo new >w; echo old >i.raw; touch i.raw.md5",
			`source $_LIB/common-functions; OUT_IMAGE_PATH=$D/w; DIB_CHECKSUM=1; save_image i.raw | grep -v Old; ls | sed 's/-[0-9.-]*\./-TIME./' | grep ^i; cat i.raw i.raw.md5 i.raw.sha256`},
		"finish_image over the old one": {"echo new >w; echo old >i.raw",
			`source $_LIB/common-functions; OUT_IMAGE_PATH=$D/w; OVERWRITE_OLD_IMAGE=1; DIB_CHECKSUM=0; save_image i.raw; ls; cat i.raw`},
		"build directories": {"", `source $_LIB/die; source $_LIB/common-functions; trap_cleanup() { :; }; DIB_NO_TMPFS=1; TMP_IMAGE_PATH=$D/x
			mk_build_dir >/dev/null; echo $TMP_HOOKS_PATH $TMP_BUILD_DIR $TMP_IMAGE_DIR $OUT_IMAGE_PATH | sed 's/\.[A-Za-z0-9]*//g'; stat -c %a $TMP_BUILD_DIR`},

		"kernel, Debian":             {"mkdir -p etc boot; touch etc/debian_version boot/{vmlinuz,initrd.img}-6.1.0-{9,10,22}-amd64", kernel},
		"kernel, Ubuntu":             {"mkdir -p etc boot; touch etc/debian_version boot/vmlinuz-5.{4,15}-generic boot/vmlinuz-6.0-kvm boot/initrd.img-5.{4,15}-generic boot/initrd.img-6.0-kvm", kernel},
		"kernel, signed":             {"mkdir -p etc boot; touch etc/debian_version boot/vmlinuz-5.4-generic boot/initrd.img-5.4-generic boot/vmlinuz-5.4-generic.efi.signed; echo DIB_SIGNED_KERNEL_VERSION=5.4 >dib-signed-kernel-version", kernel},
		"kernel, Red Hat":            {"mkdir -p etc boot; touch etc/redhat-release boot/{vmlinuz-4.{9,18},initramfs-4.{9,18}.img,vmlinuz-5.1.debug,initramfs-5.1.debug.img}", kernel},
		"kernel, extended addresses": {"mkdir -p etc boot; touch etc/redhat-release boot/{vmlinuz-4.9.PAE,initramfs-4.9.PAE.img,vmlinuz-5.1,initramfs-5.1.img}", kernel},
		"kernel, rescue":             {"mkdir -p etc boot; touch etc/redhat-release boot/{vmlinuz-0-rescue-3fa,initramfs-0-rescue-3fa.img,vmlinuz-5.1,initramfs-5.1.img}", kernel},
		"kernel, SUSE":               {"mkdir -p etc boot; touch etc/SuSE-release boot/{vmlinuz,initrd}-1-default; ln -s vmlinuz-1-default boot/vmlinuz; ln -s initrd-1-default boot/initrd", kernel},
		"kernel, openSUSE":           {"mkdir -p boot; touch boot/{vmlinuz,initrd}-1-default; ln -s vmlinuz-1-default boot/vmlinuz; ln -s initrd-1-default boot/initrd", "DISTRO_NAME=opensuse; " + kernel},
		"kernel, Gentoo":             {"mkdir -p etc boot; touch etc/gentoo-release boot/{vmlinuz-1,vmlinuz-2,initramfs-1,initramfs-2}", kernel},
		"kernel, pattern":            {"mkdir -p boot; touch boot/{vmlinuz,initrd}-{1,2,10}", "DIB_BAREMETAL_KERNEL_PATTERN='vmlinuz*' DIB_BAREMETAL_INITRD_PATTERN='initrd-[12]'; " + kernel},
		"kernel, unknown system":     {"", "DISTRO_NAME=x; " + kernel},

		"fullpath":             {"", ramdisk + `fullpath /a; fullpath a/b`},
		"libraries":            {"mkdir -p r/lib", ramdisk + `TMP_MOUNT_PATH=$D/r; copy_required_libs /bin/ls; copy_required_libs /bin/ls; copy_required_libs /bin/bash; find r -printf '%P %y %l\n' | sort`},
		"a script's libraries": {"mkdir -p r/lib; printf '#!/bin/sh\n' >s; chmod +x s", ramdisk + `TMP_MOUNT_PATH=$D/r; copy_required_libs $D/s 2>/dev/null; find r | sort`},
		"busybox": {"mkdir -p r/bin; touch r/bin/ls; printf '#!/bin/sh\necho ls; echo ip; echo cat\n' >bb; chmod +x bb",
			ramdisk + `BUSYBOX=$D/bb; TMP_MOUNT_PATH=$D/r; populate_busybox; find r -printf '%P %l\n' | sort`},
		"old busybox": {`printf '#!/bin/sh\n[ $1 = --help ] || exit 1\nprintf "x\\n\\nCurrently defined functions:\\n\\t[, cat, ls,\\n\\tsh\\n"\n' >bb; chmod +x bb`,
			ramdisk + `BUSYBOX=$D/bb; busybox_list`},
		"finalise_image": {"mkdir -p r/a; echo x >r/a/f", ramdisk + `cpio() { echo "$*" >&2; cat; }; TMP_MOUNT_PATH=$D/r TMP_IMAGE_PATH=$D/i; finalise_image; gzip -dc i | sort`},
		"ramdisk's base": {"mkdir -p r h u/rules.d; touch u/rules.d/80-drivers.rules u/rules.d/50-firmware.rules",
			ramdisk + elements + `LIB_UDEV=$D/u TMP_MOUNT_PATH=$D/r TMP_HOOKS_PATH=$D/h DISTRO_NAME=fedora; create_ramdisk_base >/dev/null 2>&1; find r -printf '%P %y %l\n' | sort; cat r/etc/udev/udev.conf`},
		"libraries, modules and programs": {"mkdir -p r/bin r/lib/modules u m/kernel/drivers/video fw; touch m/kernel/drivers/video/{x.ko,afb.ko} fw/f; printf '#!/bin/sh\necho ip; echo wget\n' >bb; chmod +x bb; " +
			`for p in lsmod modprobe udevadm reboot shutdown; do printf '#!/bin/sh\n' >$p; chmod +x $p; done`,
			ramdisk + `cat() { if [ "$*" = /etc/dib_binary_deps ]; then echo gzip ip; else command cat "$@"; fi; }; PATH=$D:$PATH
			BUSYBOX=$D/bb TMP_MOUNT_PATH=$D/r LIB_UDEV=$D/u MODULE_DIR=$D/m FIRMWARE_DIR=$D/fw KERNEL_VERSION=1; populate_lib 2>/dev/null; find r/bin r/lib/modules r/lib/firmware | sort`},
		"dib-run-parts --list": {"mkdir h; for i in 5 10 9 -5neg _z x.sh 010-c abc 2x; do printf '#!/bin/sh\n' >h/$i; chmod +x h/$i; done; touch h/plain; ln -s 9 h/07-link; ln -s none h/08-x",
			`$_LIB/dib-run-parts --list $D/h; $_LIB/dib-run-parts --list $D/none 2>/dev/null || echo $?; $_LIB/dib-run-parts 2>/dev/null || echo $?`},
		"dib-run-parts": {"mkdir h environment.d; printf '#!/bin/sh\necho $A$B; exit $S\n' >h/10-x; cp h/10-x h/9-y; chmod +x h/*; echo export A=1 S=0 >environment.d/9-a; echo 'export B=$A S=7' >environment.d/90-b.bash; echo exit >environment.d/bad~",
			`$_LIB/dib-run-parts $D/h 2>$D/log; echo $?; grep -E 'Running|Sourcing|completed' $D/log | sed 's,/\./,/,g'`},
		"dib-run-parts, environment that fails": {"mkdir h environment.d; printf '#!/bin/sh\necho never\n' >h/10-x; chmod +x h/*; echo 'echo $UNSET' >environment.d/9-a",
			`$_LIB/dib-run-parts $D/h 2>/dev/null; echo $?`},
	} {
		t.Run(name, func(t *testing.T) {
			want := script(t, originalLib, c.setup, c.text)
			got := script(t, lib, c.setup, c.text)
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("(-original +ours):\n%s", d)
			}
		})
	}
}

// Where ours does otherwise on purpose.
func TestMended(t *testing.T) {
	lib := ours(t)
	for name, c := range map[string]struct {
		setup, text string
		want        result
	}{
		"die after success is a failure":     {"", functions + `true; die gone`, result{1, "gone\n"}},
		"unmount_dir with nothing mounted":   {"mkdir x", functions + `unmount_dir $D/x; echo on`, result{0, "on\n"}},
		"run_d under set -u":                 {"mkdir h", functions + `TMP_HOOKS_PATH=$D/h; run_d x; echo on`, result{0, "on\n"}},
		"an image's place without one":       {"", functions + `trap_cleanup() { :; }; DIB_NO_TMPFS=1; mk_build_dir >/dev/null; [ $OUT_IMAGE_PATH = $TMP_IMAGE_DIR/image.raw ]`, result{}},
		"the trap removes what was made":     {"", functions + `DIB_NO_TMPFS=1; mk_build_dir >/dev/null; mkdir $TMP_BUILD_DIR/mnt; trap 'trap_cleanup; ls $D' EXIT; exit 3`, result{3, ""}},
		"checksums by name":                  {"echo new >w", `source $_LIB/common-functions; OUT_IMAGE_PATH=$D/w; DIB_CHECKSUM=md5; save_image i; ls`, result{0, "Image file i created...\ni\ni.md5\n"}},
		"a runner in the tree of hooks":      {"", functions + `echo "$DIB_RUN_PARTS"`, result{0, lib + "/dib-run-parts\n"}},
		"no chroot's processes":              {"mkdir x", functions + `kill_chroot_processes $D/x; echo on`, result{0, "on\n"}},
		"no directory to kill processes in":  {"", functions + `kill_chroot_processes ""`, result{1, "ERROR: no chroot directory specified\n"}},
		"common-functions alone has die":     {"", `source $_LIB/common-functions; false || die x`, result{1, "x\n"}},
		"no kernel for Red Hat":              {"mkdir -p etc boot; touch etc/redhat-release", kernel, result{1, "No suitable kernel found.\n"}},
		"no initramfs for Red Hat":           {"mkdir -p etc boot; touch etc/redhat-release boot/vmlinuz-1", kernel, result{1, "Can't find an initramfs for the 1 version of the kernel.\n"}},
		"eval_run_d with a hook that failed": {"mkdir -p h/a.d; printf '#!/bin/sh\\nexit 4\\n' >h/a.d/10-x; chmod +x h/a.d/10-x", `source $_LIB/common-functions; TMP_HOOKS_PATH=$D/h; break=after-error break_cmd='echo shell'; eval_run_d a X 2>/dev/null; echo $?`, result{0, "Running hooks from D/h/a.d\nshell\n1\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, script(t, lib, c.setup, c.text)); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestWrite(t *testing.T) {
	dir := ours(t)
	// An old file, and a link out of the directory, are replaced.
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir + "/die"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, dir+"/die"); err != nil {
		t.Fatal(err)
	}
	if err := Write(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Mode() != 0o755 {
			t.Errorf("%s: %v, %v; want mode 0755", e.Name(), fi.Mode(), err)
		}
		names = append(names, e.Name())
	}
	want := []string{"common-defaults", "common-functions", "dib-run-parts", "die", "img-defaults", "img-functions", "ramdisk-defaults", "ramdisk-functions"}
	if d := cmp.Diff(want, names); d != "" {
		t.Error(d)
	}
	if b, _ := os.ReadFile(outside); string(b) != "x" {
		t.Errorf("wrote through a link: %q", b)
	}
}

// Hooks source the files in shells of all kinds.
func TestShellcheck(t *testing.T) {
	testenv.Need(t, "shellcheck")
	files, err := filepath.Glob("lib/*")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("shellcheck", append([]string{"-s", "bash"}, files...)...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	args := slices.Concat([]string{"tool", "shfmt", "-i", "4", "-ci", "-d"}, files)
	if out, err := exec.Command("go", args...).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
