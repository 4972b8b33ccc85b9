package collectcfg

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/metadata"
	"goldsmith/internal/testenv"
)

// devices makes a fake /sys/class/block and /dev with these images.
func devices(t *testing.T, images map[string][]byte) blockDevices {
	d := blockDevices{t.TempDir(), t.TempDir()}
	for name, data := range images {
		files(t, d.sys, map[string]string{name + "/size": fmt.Sprintln(len(data) / 512)})
		files(t, d.dev, map[string]string{name: string(data)})
	}
	return d
}

func tool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", args, err, out)
	}
}

// vfatImage makes a volume of the files of dir.
func vfatImage(t *testing.T, dir, label string, args ...string) []byte {
	t.Helper()
	testenv.Need(t, "mkfs.vfat", "mcopy")
	path := filepath.Join(t.TempDir(), "fs")
	tool(t, append(append([]string{"mkfs.vfat"}, args...), "-n", label, "-C", path, "40960")...)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tool(t, "mcopy", "-s", "-i", path, filepath.Join(dir, e.Name()), "::")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func isoImage(t *testing.T, dir, label string) []byte {
	t.Helper()
	testenv.Need(t, "xorriso")
	path := filepath.Join(t.TempDir(), "iso")
	tool(t, "xorriso", "-as", "mkisofs", "-quiet", "-V", label, "-J", "-r", "-o", path, dir)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestFindVolume(t *testing.T) {
	seed := files(t, t.TempDir(), map[string]string{"meta-data": "instance-id: i-1\n", "goldsmith/metadata.json": `{"a": 1}`, "user-data": "#"})
	fat := func(label string, args ...string) []byte { return vfatImage(t, seed, label, args...) }
	label := []byte("CIDATA     ")
	noRootLabel := func(b []byte) []byte { // leaves the label of the boot sector
		b = bytes.Clone(b)
		b[bytes.LastIndex(b, label)] = 0xe5 // a deleted entry
		return b
	}
	otherBootLabel := func(b []byte) []byte { // leaves the label of the root directory
		b = bytes.Clone(b)
		copy(b[bytes.Index(b, label):], "NO NAME    ")
		return b
	}
	f12, f16, f32 := fat("CIDATA", "-F", "12"), fat("CIDATA", "-F", "16"), fat("CIDATA", "-F", "32", "-s", "1")
	for name, tc := range map[string]struct {
		image []byte
		found bool
	}{
		"iso": {isoImage(t, seed, "cidata"), true}, "ISO": {isoImage(t, seed, "CIDATA"), true}, "other iso": {isoImage(t, seed, "CIDATA2"), false},
		"FAT12": {f12, true}, "FAT16": {f16, true}, "FAT32": {f32, true},
		"FAT16, boot sector": {noRootLabel(f16), true}, "FAT32, boot sector": {noRootLabel(f32), true},
		"FAT16, root": {otherBootLabel(f16), true}, "FAT32, root": {otherBootLabel(f32), true},
		"FAT16, neither": {otherBootLabel(noRootLabel(f16)), false},
		"other FAT":      {fat("EFI", "-F", "16"), false}, "short": {[]byte("x"), false}, "zeros": {make([]byte, 1<<20), false},
	} {
		n := &NoCloud{devices: devices(t, map[string][]byte{"vda": make([]byte, 4096), "vdb": tc.image, "loop0": nil})}
		docs, err := n.Collect(t.Context())
		if !tc.found {
			if !IsUnavailable(err) {
				t.Errorf("%s: %v, %v; want no seed", name, docs, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := metadata.JSON(docs[0].Value); got != `{"a": 1, "instance-id": "i-1"}` || string(docs[0].Keep["nocloud.user-data"]) != "#" {
			t.Errorf("%s: %s, %q", name, got, docs[0].Keep)
		}
	}
}

func TestConfigDrive(t *testing.T) {
	openstack := map[string]string{
		"openstack/latest/meta_data.json": `{"uuid": "u-1", "hostname": "h", "meta": {"role": "web"}}`, "openstack/latest/user_data": "#!",
	}
	ec2 := map[string]string{"ec2/latest/meta-data.json": `{"instance-id": "i-9"}`}
	for name, tc := range map[string]struct {
		files map[string]string
		want  string
	}{
		"openstack": {openstack, `{"uuid": "u-1", "hostname": "h", "meta": {"role": "web"}`}, "ec2": {ec2, `{"instance-id": "i-9"}`},
		"nothing": {map[string]string{"x": "y"}, ""},
	} {
		dir := files(t, t.TempDir(), tc.files)
		for form, image := range map[string][]byte{"vfat": vfatImage(t, dir, "config-2"), "iso": isoImage(t, dir, "config-2")} {
			d := devices(t, map[string][]byte{"sr0": image})
			docs, err := ConfigDrive{d}.Collect(t.Context())
			if tc.want == "" {
				if !IsUnavailable(err) {
					t.Errorf("%s, %s: %v", name, form, err)
				}
				continue
			}
			if err != nil || !strings.HasPrefix(metadata.JSON(docs[0].Value), tc.want) {
				t.Errorf("%s, %s: %v, %v", name, form, docs, err)
				continue
			}
			o := docs[0].Value.(*metadata.Object)
			if id, _ := o.Text("instance-id"); name == "openstack" && (id != "u-1" || string(docs[0].Keep["config_drive.user-data"]) != "#!") {
				t.Errorf("%s, %s: %s, %q", name, form, metadata.JSON(o), docs[0].Keep)
			}
			if name != "ec2" {
				continue
			}
			e := &EC2{URL: "http://127.0.0.1:1", Timeout: 1, devices: d}
			if docs, err := e.Collect(t.Context()); err != nil || metadata.JSON(docs[0].Value) != tc.want {
				t.Errorf("%s as EC2: %v, %v", form, docs, err)
			}
		}
	}
}

// Events of devices can be listened to; what comes depends on the machine.
func TestDeviceEvents(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := machineDevices.notify(ctx, func() { n++; cancel() })
	if err != nil && !strings.Contains(err.Error(), "events of devices") || err == nil && n != 1 {
		t.Errorf("notify: %v, woken %d times", err, n)
	}
}

// A seed that has been taken away goes on to count, also after a restart; a
// directory that is gone does not.
func TestDetached(t *testing.T) {
	dir := t.TempDir()
	image := vfatImage(t, files(t, t.TempDir(), map[string]string{"goldsmith/metadata.json": `{"a": 1}`}), "CIDATA")
	with, without := devices(t, map[string][]byte{"vdb": image}), devices(t, nil)
	for i, step := range []struct {
		source NoCloud
		want   string
	}{
		{NoCloud{devices: without}, ""}, {NoCloud{devices: with}, `{"a": 1}`}, {NoCloud{devices: without}, `{"a": 1}`}, {NoCloud{Seed: dir + "/none"}, ""},
	} {
		r := &Runner{Cache: &Cache{Dir: filepath.Join(dir, "cache")}, Sources: []Source{{"nocloud", &step.source}}, Say: t.Logf, Command: "true"}
		for range 2 {
			if _, err := r.Once(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, d := range r.documents() {
				got += metadata.JSON(d.Value)
			}
			if got != step.want {
				t.Errorf("step %d: %s, want %s", i, got, step.want)
			}
		}
	}
}
