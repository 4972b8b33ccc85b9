package tests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	dgpt "github.com/diskfs/go-diskfs/partition/gpt"

	"goldsmith/internal/deploy"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
	"goldsmith/testbed"
)

const ramdisk = `name: ramdisk
release: bookworm
elements: [debian, deploy-ramdisk, deploy-mdadm]
outputs: [deploy-ramdisk]
`

// bareImage puts an image into a layout that no machine starts, but that has a
// partition table with a state partition: enough to deploy.
func bareImage(t *testing.T, dir string) (digest string, raw []byte) {
	t.Helper()
	const mib = 1 << 20
	name := filepath.Join(t.TempDir(), "bare.raw")
	raw = make([]byte, 32*mib)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(raw[2*mib : 9*mib])
	if err := os.WriteFile(name, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := &dgpt.Table{ProtectiveMBR: true, LogicalSectorSize: 512, PhysicalSectorSize: 512}
	for i, p := range []struct {
		name       string
		start, end uint64 // MiB
	}{{"root-a", 1, 20}, {"state", 20, 31}} {
		table.Partitions = append(table.Partitions, &dgpt.Partition{Index: i + 1, Name: p.name, Type: dgpt.LinuxFilesystem,
			Start: p.start * 2048, End: p.end*2048 - 1, Size: (p.end - p.start) * mib})
	}
	if err := table.Write(f, int64(len(raw))); err != nil {
		t.Fatal(err)
	}
	if raw, err = os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	layout, err := registry.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	digest, _, err = layout.PutImage(t.Context(), name, registry.Image{
		Name: "bare", Version: "1", Arch: "amd64", Size: int64(len(raw)), SHA256: hex.EncodeToString(sum[:]),
	})
	if err != nil {
		t.Fatal(err)
	}
	return digest, raw
}

// The ramdisk starts, says what the machine has, and writes an image with a
// seed; the same input gives the same ramdisk.
func TestDeployRamdisk(t *testing.T) {
	need(t, true)
	m := newMetal(t)
	digest, raw := bareImage(t, m.layout)
	disk := m.disk(t, "a", 64<<20)
	d := m.assign(t, deploy.Task{Kind: deploy.Inspect})
	v := m.start(t, d, disk)
	inv, err := d.Inventory(v.ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, v.console())
	}
	if len(inv.Disks) != 1 || inv.Disks[0].Size != 64<<20 || inv.Disks[0].Serial != "a" || len(inv.NICs) != 1 || inv.NICs[0].Driver != "virtio_net" {
		t.Errorf("inventory: %+v", inv)
	}
	t.Logf("agent ready %s after the kernel", v.moment("agent ready"))
	m.wait(t, d, v)
	task := deploy.Task{Kind: deploy.Deploy, Finish: deploy.Off, Image: &deploy.Image{Source: m.images(), Digest: digest},
		Seed: &deploy.Seed{InstanceID: "i-1", Hostname: "metal1"}}
	if err := d.Next(task); err != nil {
		t.Fatal(err)
	}
	if r := m.wait(t, d, v); !r.OK() {
		t.Fatalf("%+v\n%s", r, v.console())
	}
	if err := <-v.ended; err != nil {
		t.Errorf("the machine did not switch itself off: %v", err)
	}
	got, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(bytes.NewReader(got), int64(len(got)), 512)
	if err != nil || table.Backup || len(table.Partitions) != 3 || !bytes.Equal(got[1<<20:31<<20], raw[1<<20:31<<20]) {
		t.Errorf("the disk is not the image: %+v, %v", table, err)
	}
	if !m.logged("kernel 6") || !m.logged("disk /dev/vda: 64 MiB") {
		t.Errorf("the log lacks lines: %s", m.log())
	}
}

// signedImage builds a small image that reports when it is configured, and signs
// it.
func (m *metal) signedImage(t *testing.T) {
	t.Helper()
	build(t, m.dir, `name: metal
version: "1"
release: bookworm
elements: [debian, boot, read-only-root, network, collectcfg]
environment: {BOOT_KERNEL: cloud}
outputs: [raw]
`, nil)
	keys := filepath.Join(m.dir, "keys")
	run(t, []string{"imgbuild", "push", filepath.Join(m.dir, "metal.manifest.json"), "oci:" + m.layout + ":v1"}, nil, 0)
	run(t, []string{"imgbuild", "keys", "release", keys}, nil, 0)
	key, err := os.ReadFile(filepath.Join(keys, "release.pub"))
	if err != nil {
		t.Fatal(err)
	}
	sign := program{[]string{"imgbuild", "sign", "--key", filepath.Join(keys, "release.key"), "oci:" + m.layout + ":v1"}, nil}
	status, out := sign.run(t)
	_, digest, ok := strings.Cut(out, "sha256:")
	if status != 0 || !ok {
		t.Fatalf("sign: status %d: %s", status, out)
	}
	m.digest, m.key = "sha256:"+digest[:64], string(key)
}

// Images that must not be deployed are not, the server is told why, and the
// machine waits for the next task; then it deploys a good one, which starts,
// after a reboot and, over IPv6, by kexec, and is configured by its seed.
func TestDeploy(t *testing.T) {
	need(t, false)
	m := newMetal(t)
	m.signedImage(t)
	disk := m.disk(t, "a", 6<<30)
	m.badImages(t, disk)
	for _, finish := range []deploy.Finish{deploy.Reboot, deploy.Kexec} {
		if finish == deploy.Kexec {
			m.url = strings.Replace(m.url, "10.0.2.2", "[fec0::2]", 1)
		}
		v := m.deploy(t, m.task(t, finish), disk)
		if finish == deploy.Reboot {
			<-v.ended
			v = m.boot(t, testbed.UEFI, disk)
		}
		m.configured(t, v)
		v.stop()
	}
}

// deploy has a machine with these disks do a task.
func (m *metal) deploy(t *testing.T, task deploy.Task, disks ...string) *vm {
	t.Helper()
	d := m.assign(t, task)
	v := m.start(t, d, disks...)
	r := m.wait(t, d, v)
	if !r.OK() {
		t.Fatalf("%s: %+v\n%s", task.Finish, r, v.console())
	}
	t.Logf("%s: %s; %v", task.Finish, r.Disk, r.Seconds)
	return v
}

// An image on a RAID 1 starts from both disks together, and from each alone, by
// either firmware.
func TestDeployRAID1(t *testing.T) {
	need(t, false)
	m := newMetal(t)
	m.signedImage(t)
	a, b := m.disk(t, "a", 3<<30), m.disk(t, "b", 3<<30)
	task := m.task(t, deploy.Reboot)
	task.Storage = deploy.Storage{Level: deploy.LevelRAID1}
	<-m.deploy(t, task, a, b).ended
	v := m.boot(t, testbed.UEFI, a, b)
	m.configured(t, v)
	v.shows(t, "md127 is a RAID 1 of vda, vdb; it is made for 2 disks")
	v.stop()
	for _, c := range []struct {
		firmware testbed.Firmware
		disk     string
	}{{testbed.UEFI, b}, {testbed.BIOS, a}} {
		v := m.boot(t, c.firmware, c.disk)
		v.shows(t, "md127 is a RAID 1 of vda; it is made for 2 disks")
		v.shows(t, "login:")
		v.stop()
	}
}

// badImages has one machine fail at every kind of bad image.
func (m *metal) badImages(t *testing.T, disk string) {
	t.Helper()
	other, err := trust.NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	d := m.assign(t, deploy.Task{Kind: deploy.Clean})
	v := m.start(t, d, disk)
	defer v.stop()
	if r := m.wait(t, d, v); !r.OK() {
		t.Fatalf("clean: %+v\n%s", r, v.console())
	}
	for _, c := range []struct {
		name, step, want string
		change           func(*deploy.Task)
	}{
		{"forged digest", "10-image", "404", func(k *deploy.Task) { k.Image.Digest = "sha256:" + strings.Repeat("1", 64) }},
		{"another's key", "10-image", "not trusted", func(k *deploy.Task) { k.Image.Keys = []string{string(other.Public.PEM())} }},
		{"a source that ends", "50-write", "503", func(*deploy.Task) { m.dieAfter.Store(8 << 20) }},
	} {
		task := m.task(t, deploy.Off)
		c.change(&task)
		if err := d.Next(task); err != nil {
			t.Fatal(err)
		}
		r := m.wait(t, d, v)
		m.dieAfter.Store(0)
		if r.Step != c.step || !strings.Contains(r.Error, c.want) {
			t.Errorf("%s: %+v; want %q in step %s", c.name, r, c.want, c.step)
		}
		f, err := os.Open(disk)
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1<<20)
		if _, err := io.ReadFull(f, head); err != nil || !bytes.Equal(head, make([]byte, len(head))) {
			t.Errorf("%s: the disk can be started (%v)", c.name, err)
		}
		_ = f.Close()
	}
}

// task deploys the image and has the machine report when it is configured.
func (m *metal) task(t *testing.T, finish deploy.Finish) deploy.Task {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"completion-signal": m.url + "/signal", "completion-token": "token"})
	if err != nil {
		t.Fatal(err)
	}
	m.instance++
	return deploy.Task{Kind: deploy.Deploy, Finish: finish,
		Image: &deploy.Image{Source: m.images(), Digest: m.digest, Keys: []string{m.key}},
		Seed:  &deploy.Seed{InstanceID: fmt.Sprintf("i-%d", m.instance), Hostname: "metal1", Metadata: doc}}
}

// wait returns how the last task ended.
func (m *metal) wait(t *testing.T, d *deploy.Deployment, v *vm) *deploy.Result {
	t.Helper()
	r, err := d.Wait(v.ctx)
	if err != nil {
		t.Fatalf("%v\n%s", err, v.console())
	}
	return r
}

// configured waits until the machine says that it is.
func (m *metal) configured(t *testing.T, v *vm) {
	t.Helper()
	begun := time.Now()
	select {
	case text := <-m.signals:
		if want := fmt.Sprintf(`"UniqueId":"i-%d"`, m.instance); !strings.Contains(text, want) || !strings.Contains(text, `"SUCCESS"`) {
			t.Errorf("signal %s; want %s", text, want)
		}
		t.Logf("configured after %.0f s", time.Since(begun).Seconds())
	case err := <-v.ended:
		t.Fatalf("the machine ended: %v\n%s", err, v.console())
	case <-v.ctx.Done():
		t.Fatalf("no signal: %v\n%s", context.Cause(v.ctx), v.console())
	}
}

var errMachineTime = errors.New("the machine took too long")

// ServeHTTP is everything that machines ask for.
func (m *metal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/signal":
		b, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			m.signals <- string(b)
		}
	case strings.HasPrefix(r.URL.Path, "/images/"):
		m.serveImages(w, r)
	default:
		m.server.ServeHTTP(w, r)
	}
}
