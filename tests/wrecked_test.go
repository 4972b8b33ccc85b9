package tests

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"goldsmith/internal/deploy"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/machineapi"
	machineseed "goldsmith/internal/seed"
	"goldsmith/internal/store"
	"goldsmith/testbed"
	"goldsmith/testbed/inventory"
	servers "goldsmith/testbed/metal"
)

// served is a server that a site of this process has deployed to.
type served struct {
	*server
	ctx  context.Context
	node *servers.Node
	api  *machineapi.Server
	told *machineapi.Machine
	key  string // of who may log in
	ssh  *testbed.SSH
}

func (s *served) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// serve deploys an image to the server, as a stage does.
func (s *server) serve(ctx context.Context, image string) *served {
	s.t.Helper()
	r := &served{server: s, ctx: ctx}
	db, err := store.Open(ctx, filepath.Join(s.dir, "imgpipe.db"))
	r.ok(err)
	s.t.Cleanup(func() { _ = db.Close() })
	v := inventory.New(db)
	f, err := inventory.Load(s.inventory)
	r.ok(err)
	r.ok(errors.Join(v.Apply(ctx, f, "test"), v.Allow(ctx, "server", "test")))
	images := filepath.Join(s.dir, "runs/oci")
	site, err := servers.Open(ctx, servers.Config{Inventory: v, Where: s.lan, Dir: filepath.Join(s.dir, "site"), Ramdisk: servers.RamdiskAt(s.ramdisk),
		Cmdline: "console=ttyS0", Images: images})
	r.ok(err)
	s.t.Cleanup(func() { _ = site.Close() })
	r.api = site.API()
	r.ok(errors.Join(site.NewKeeper().Survey(ctx), site.Inspect(ctx, "server")))
	r.node, err = site.Acquire(ctx, inventory.Request{Boot: inventory.BootNetwork}, "test")
	r.ok(err)
	s.t.Cleanup(func() { _ = r.node.Release(context.Background()) })
	_, private, err := ed25519.GenerateKey(rand.Reader)
	r.ok(err)
	signer, err := ssh.NewSignerFromKey(private)
	r.ok(err)
	r.key = strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	metadata := r.wants(image)
	r.told, err = r.api.Add("i-1", metadata)
	r.ok(err)
	r.ok(r.node.Deploy(ctx, servers.Deployment{Image: image, Seed: machineseed.Seed{InstanceID: "i-1", Hostname: "server",
		AuthorizedKeys: []string{r.key}, Metadata: r.told.Metadata(metadata)}, Finish: deploy.Reboot}))
	address, err := r.node.Address(ctx)
	r.ok(err)
	r.ssh = &testbed.SSH{Addr: address.String() + ":22", Key: signer, Network: s.lan}
	s.t.Cleanup(func() { _ = r.ssh.Close() })
	return r
}

// wants is what the machine is told to run.
func (s *served) wants(image string) map[string]any {
	return map[string]any{"image": map[string]any{"digest": image, "source": s.api.Images()},
		"local-hostname": "server", "ssh-authorized-keys": []string{s.key}}
}

func (s *served) signal() machineapi.Signal {
	s.t.Helper()
	sig, err := s.told.Signal(s.ctx)
	s.ok(err)
	return sig
}

func (s *served) shell(line string) string {
	s.t.Helper()
	s.ok(s.ssh.Wait(s.ctx))
	out, err := s.ssh.Output(s.ctx, line)
	if err != nil {
		s.t.Fatalf("%s: %v: %s", line, err, out)
	}
	return string(out)
}

// A machine of boot: network starts what it was given although its EFI partition
// is wrecked, and is well then. To run another image it is not asked: that it
// would not start.
func TestWreckedESP(t *testing.T) {
	need(t, false)
	s := newServer(t, testbed.UEFI, inventory.BootNetwork)
	image, next := tags(t, filepath.Join(s.dir, "runs"))["candidate"], s.suites.run("v2.yaml", "").Stages[0].Image
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	r := s.serve(ctx, image)
	if sig := r.signal(); !sig.OK() {
		t.Fatalf("signal: %+v", sig)
	}
	boot := r.shell("cat /proc/sys/kernel/random/boot_id")

	r.ok(r.node.PowerOff(ctx))
	wreck(t, s.disk)
	_ = r.ssh.Close()
	started := time.Now()
	r.ok(r.node.PowerOn(ctx))
	if sig := r.signal(); !sig.OK() {
		t.Fatalf("signal without the EFI partition: %+v", sig)
	}
	t.Logf("from power on to configured: %.0f s", time.Since(started).Seconds())
	if again := r.shell("cat /proc/sys/kernel/random/boot_id"); again == boot {
		t.Error("the machine did not restart")
	}
	if out := r.shell("systemctl is-system-running --wait; systemctl --failed --no-legend"); strings.TrimSpace(out) != "running" {
		t.Errorf("the system is %s", out)
	}
	r.shell("imgupdate verify")
	if out := r.shell("imgupdate status"); !strings.Contains(out, "starts from the network") {
		t.Errorf("status: %s", out)
	}

	r.ok(r.told.Tell(r.wants(next)))
	if sig := r.signal(); sig.OK() || !strings.Contains(sig.Reason+sig.Data, "this machine starts from the network") {
		t.Errorf("told to run another image: %+v", sig)
	}
	if out := r.shell("imgupdate status"); !strings.Contains(out, "b     empty") {
		t.Errorf("status: %s", out)
	}
}

// wreck fills a disk's EFI partition with zeros.
func wreck(t *testing.T, disk string) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, fi.Size(), 512)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range table.Partitions {
		if p.Name == "esp" {
			if _, err := f.WriteAt(make([]byte, p.Size), p.Start); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("no EFI partition in %s", disk)
}
