package tests

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/disk"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/testenv"
	"goldsmith/internal/update"
	"goldsmith/testbed"
)

const updating = `name: updating
version: "%d"
release: bookworm
elements: [debian, boot, read-only-root, network, collectcfg, imgupdate, data, trust%s]
environment: {BOOT_KERNEL: cloud} # a smaller root to hash under emulation
size: 3GiB
outputs: [raw]
`

// releases are the versions of an image, signed, in a layout: 1 is what
// machines run, the others are what they are told to run.
type releases struct {
	dir       string
	disk      *disk.Layout // of version 1
	digest    map[string]string
	published map[string]version // by ID
	record    string             // a file for what the next machine writes; empty: none
	restart   string             // how the next machine is to restart; empty: reboot
	until     string             // what a machine's signal must have before it is looked at
}

// version is what is known about a version's disk.
type version struct {
	layout *disk.Layout
	files  map[string]string // SHA-256 of GRUB's files of it, by their path on the EFI partition
}

// publish builds and signs version 1 and one version for each element.
func publish(t *testing.T, with ...string) *releases {
	t.Helper()
	r := &releases{dir: t.TempDir(), digest: map[string]string{}, published: map[string]version{}}
	run(t, []string{"imgbuild", "keys", "release", filepath.Join(r.dir, "keys")}, nil, 0)
	key, err := os.ReadFile(filepath.Join(r.dir, "keys/release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(r.dir, "elements")
	for name, text := range map[string]string{
		"README.md": "# trust\n\nThe key of this test.\n", "element-deps": "install-static\n",
		"static/usr/share/goldsmith/trust/test.pub": string(key),
	} {
		path := filepath.Join(own, "trust", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{elements(t) + ":" + own}
	for i, element := range append([]string{""}, with...) {
		dir := filepath.Join(r.dir, fmt.Sprint(i+1))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if element != "" {
			element = ", " + element
		}
		build(t, dir, fmt.Sprintf(updating, i+1, element), env)
		manifest := filepath.Join(dir, "updating.manifest.json")
		m, err := imagebuild.ReadManifest(manifest)
		if err != nil {
			t.Fatal(err)
		}
		r.published[m.Disk.Boot.ID] = known(t, dir, m.Disk)
		if i == 0 {
			r.disk = m.Disk
			continue
		}
		tag := fmt.Sprintf("oci:%s:v%d", filepath.Join(r.dir, "layout"), i+1)
		run(t, []string{"imgbuild", "push", manifest, tag}, nil, 0)
		sign := program{[]string{"imgbuild", "sign", "--key", filepath.Join(r.dir, "keys/release.key"), tag}, nil}
		status, out := sign.run(t)
		_, digest, ok := strings.Cut(out, "sha256:")
		if status != 0 || !ok {
			t.Fatalf("sign: status %d: %s", status, out)
		}
		r.digest[with[i-1]] = "sha256:" + digest[:64]
		if err := os.Remove(filepath.Join(dir, "updating.raw")); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// known reads what a disk has for GRUB.
func known(t *testing.T, dir string, l *disk.Layout) version {
	t.Helper()
	v := version{layout: l, files: map[string]string{}}
	at := "updating.raw@@" + fmt.Sprint(partition(l, "esp").Start)
	tool(t, dir, "mcopy", "-s", "-i", at, "::/bios", ".")
	for _, name := range []string{"linux", "initrd", "boot.cfg"} {
		path := filepath.Join(bootentry.BIOSDir, l.Boot.ID, name)
		sum, err := fileSum(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		v.files[path] = sum
	}
	return v
}

// machine copies version 1's disk: a machine that starts for the first time.
func (r *releases) machine(t *testing.T) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk.raw")
	tool(t, r.dir, "cp", "--sparse=always", "1/updating.raw", raw)
	return raw
}

// follow boots a machine whose metadata want that image, and returns its
// completion signals, up to the first, or the first with the text r.until, and
// what its console showed.
func (r *releases) follow(t *testing.T, raw, digest string, f testbed.Firmware, during func(console string) bool) (signal, console string) {
	t.Helper()
	c := &cloud{t: t, instance: "i-" + filepath.Base(filepath.Dir(raw)), images: filepath.Join(r.dir, "layout")}
	doc, err := json.Marshal(map[string]any{
		"completion-signal": "http://" + serviceAddress + "/signal", "completion-token": "token",
		"image": map[string]string{"digest": digest, "source": "http://" + serviceAddress + "/images", "restart": cmp.Or(r.restart, "reboot")},
	})
	if err != nil {
		t.Fatal(err)
	}
	seed := c.volume("CIDATA", map[string]string{
		"meta-data": "instance-id: " + c.instance + "\n", "goldsmith/metadata.json": string(doc),
	})
	args := []string{"imgbuild", "run", "--network", "--write", "--firmware", string(f), "--seed", seed, raw}
	if r.record != "" {
		args = append(args, "--record", r.record)
	}
	cmd, _ := program{args, nil}.command(t)
	file := filepath.Join(t.TempDir(), "console")
	failed, stop := make(chan error, 1), make(chan struct{})
	go func() { failed <- c.run(cmd, file, stop) }()
	deadline := time.After(25 * time.Minute)
	for signal == "" || !strings.Contains(signal, r.until) {
		c.mu.Lock()
		signal = strings.Join(c.signals, "\n")
		c.mu.Unlock()
		if during != nil && during(c.console(file)) {
			during = nil
		}
		select {
		case err := <-failed:
			t.Fatalf("%v\n%s", err, c.console(file))
		case <-deadline:
			t.Errorf("no signal with %q: %s\n%s", r.until, signal, c.console(file))
			signal += "none " + r.until
		case <-time.After(200 * time.Millisecond):
		}
	}
	close(stop)
	if err := <-failed; err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return signal, string(text)
}

var firmwares = []testbed.Firmware{testbed.UEFI, testbed.BIOS}

// A machine is told to run another image: it fetches what it lacks, restarts,
// and the new image proves itself and reports.
func TestUpdateOfMachines(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs", "e2fsck", "cp", "dd", "mcopy")
	r := publish(t, "redis")
	for _, f := range firmwares {
		t.Run(string(f), func(t *testing.T) {
			raw := r.machine(t)
			start := time.Now()
			signal, console := r.follow(t, raw, r.digest["redis"], f, nil)
			t.Logf("new image proved after %.0f s", time.Since(start).Seconds())
			rec := record(t, raw, r.disk)
			if !strings.Contains(signal, `"Status":"SUCCESS"`) || rec.Good != "b" || rec.Trial != nil || rec.Slots["b"].Digest != r.digest["redis"] {
				t.Errorf("signal %s\nrecord %+v\n%s", signal, rec, console)
			}
			if n := strings.Count(console, "imginit:"); n == 0 {
				t.Errorf("console:\n%s", console)
			}
		})
	}
}

// How long Redis does not answer during an update, by a restart through the
// firmware and by kexec: from the moment it is stopped until its health check
// is good in the new image.
func TestDowntime(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs", "e2fsck", "cp", "dd", "mcopy", "journalctl")
	r := publish(t, "redis", "redis, good-migration")
	for _, how := range []string{"reboot", "kexec"} {
		t.Run(how, func(t *testing.T) {
			raw := r.machine(t)
			if signal, console := r.follow(t, raw, r.digest["redis"], testbed.UEFI, nil); !strings.Contains(signal, `"Status":"SUCCESS"`) {
				t.Fatalf("signal %s\n%s", signal, console)
			}
			r.restart = how
			signal, console := r.follow(t, raw, r.digest["redis, good-migration"], testbed.UEFI, nil)
			r.restart = ""
			rec := record(t, raw, r.disk)
			if !strings.Contains(signal, `"Status":"SUCCESS"`) || rec.Good != "a" || rec.Slots["a"].Version != "3" {
				t.Fatalf("signal %s\nrecord %+v\n%s", signal, rec, console)
			}
			// Firmware starts once, and again when kexec does not go past it.
			if n := strings.Count(console, "BdsDxe: starting"); (n == 1) != (how == "kexec") {
				t.Errorf("firmware started %d times with %s\n%s", n, how, console)
			}
			down, up := moment(t, raw, r.disk, "quiesce: 50-redis"), changed(t, raw, r.disk, "/boot/slots.json")
			if up <= down {
				t.Errorf("stopped at %.0f, well at %.0f", down, up)
			}
			t.Logf("Redis was down for %.0f s with %s", up-down, how)
		})
	}
}

// An image that does not prove itself: the machine is back on the one before,
// with its data, and says why.
func TestBadUpdates(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs", "e2fsck", "cp", "dd", "mcopy")
	r := publish(t, "bad-health", "bad-migration", "panics", "hangs", "no-init")
	r.until = "failed on this machine" // the image on trial may report, too
	for element, want := range map[string]string{
		"bad-health":    "health check 60-bad: status 1: this image is never well",
		"bad-migration": "migration/60-bad-migration: exit status 1: the data cannot be migrated",
		"panics":        "",
		"hangs":         "",
		"no-init":       "its imginit reported: run /sbin/init",
	} {
		for _, f := range firmwares {
			t.Run(element+"/"+string(f), func(t *testing.T) {
				raw := r.machine(t)
				start := time.Now()
				signal, console := r.follow(t, raw, r.digest[element], f, nil)
				rec := record(t, raw, r.disk)
				if len(rec.Failed) != 1 || rec.Good != "a" || rec.Trial != nil || rec.Slots["b"].State != update.Failed {
					t.Fatalf("signal %s\nrecord %+v\n%s", signal, rec, console)
				}
				reason := rec.Failed[0].Reason
				t.Logf("back after %.0f s: %s", time.Since(start).Seconds(), reason)
				for _, text := range []string{reason, signal} {
					if !strings.Contains(text, want) {
						t.Errorf("%q lacks %q", text, want)
					}
				}
				if !strings.Contains(signal, `"Status":"FAILURE"`) || !strings.Contains(console, "imgupdate: returned from version") {
					t.Errorf("signal %s\n%s", signal, console)
				}
				if data := stateFile(t, raw, r.disk, "/fs/var/lib/data/file"); data != "precious\n" {
					t.Errorf("the data are %q", data)
				}
			})
		}
	}
}

// Blocks of the slot, of its tree and of its kernel image that are damaged
// while the machine is off: it is back on the image before, and names them.
func TestDamagedUpdates(t *testing.T) {
	need(t, false)
	testenv.Need(t, "debugfs", "e2fsck", "cp", "dd", "mcopy")
	r := publish(t, "redis")
	r.until = "failed on this machine"
	for what, want := range map[string]string{
		"root-b": "slot b is damaged", "verity-b": "slot b is damaged",
		"kernel": "on the EFI partition is damaged", "initramfs": "on the EFI partition is damaged",
	} {
		for _, f := range firmwares {
			t.Run(what+"/"+string(f), func(t *testing.T) {
				raw := r.machine(t)
				damage := func(console string) bool {
					// The new kernel image is complete, and the machine restarts.
					if !strings.Contains(console, "reboot: Restarting system") {
						return false
					}
					spoil(t, raw, r.disk, what)
					return true
				}
				signal, console := r.follow(t, raw, r.digest["redis"], f, damage)
				rec := record(t, raw, r.disk)
				if len(rec.Failed) != 1 || rec.Good != "a" || !strings.Contains(rec.Failed[0].Reason, want) || !strings.Contains(signal, want) {
					t.Errorf("signal %s\nrecord %+v\n%s", signal, rec, console)
				}
			})
		}
	}
}
