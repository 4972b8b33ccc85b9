package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dgpt "github.com/diskfs/go-diskfs/partition/gpt"

	"goldsmith/internal/deploy"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/fat"
	"goldsmith/internal/registry"
	"goldsmith/internal/release"
	"goldsmith/internal/trust"
)

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// bed is an agent in directories, with a server and an image in a layout.
type bed struct {
	*Agent
	server   *deploy.Server
	dir      string
	layout   *registry.Layout
	digest   string
	image    []byte     // the disk
	url      string     // of the layout
	mu       sync.Mutex // guards the fields below
	said     []string
	restarts []deploy.Finish
	steps    []deploy.Event
}

// rawImage makes a disk of 8 MiB with a table, content, and a state partition.
func rawImage(t *testing.T, path string) []byte {
	t.Helper()
	raw := make([]byte, 8*mib)
	copy(raw[2*mib:], noise(1, 3*mib))
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table := &dgpt.Table{ProtectiveMBR: true, LogicalSectorSize: 512, PhysicalSectorSize: 512,
		GUID: "01234567-89AB-CDEF-0123-456789ABCDEF"}
	for i, p := range []struct{ name, guid string }{{"root-a", "11111111-89AB-CDEF-0123-456789ABCDEF"}, {"state", "21111111-89AB-CDEF-0123-456789ABCDEF"}} {
		start := uint64(1+5*i) * 2048
		end := []uint64{6, 7}[i]*2048 - 1
		table.Partitions = append(table.Partitions, &dgpt.Partition{Index: i + 1, Name: p.name, Type: dgpt.LinuxFilesystem, GUID: p.guid,
			Start: start, End: end, Size: (end - start + 1) * 512})
	}
	if err := table.Write(f, int64(len(raw))); err != nil {
		t.Fatal(err)
	}
	raw, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{dir: t.TempDir()}
	raw := filepath.Join(b.dir, "image.raw")
	b.image = rawImage(t, raw)
	sum, ukiSum := sha256.Sum256(b.image), sha256.Sum256(b.image[3*mib:][:4096])
	layout, err := registry.Open(filepath.Join(b.dir, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	b.layout = layout
	b.digest, _, err = layout.PutImage(t.Context(), raw, registry.Image{
		Name: "demo", Version: "1", Arch: "amd64", Size: int64(len(b.image)), SHA256: hex.EncodeToString(sum[:]),
		Root: &release.Root{Offset: 2 * mib, Size: mib, RootHash: hex.EncodeToString(sum[:]), Salt: "00",
			UUID: "01234567-89ab-cdef-0123-456789abcdef"},
		UKI: &release.UKI{ID: "demo_1", Offset: 3 * mib, Size: 4096, SHA256: hex.EncodeToString(ukiSum[:])},
	})
	if err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.FileServer(http.Dir(layout.Dir())))
	t.Cleanup(site.Close)
	b.url = site.URL
	for _, name := range []string{"sys/block", "proc", "dev", "steps", "scratch"} {
		if err := os.MkdirAll(filepath.Join(b.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }
	reporter := deploy.NewReporter("boot", func() float64 { return 0 })
	b.Agent = New(Config{
		Reporter: reporter, Sys: at("sys"), Proc: at("proc"), Dev: at("dev"), Steps: at("steps"), Scratch: at("scratch"),
		Say: func(format string, args ...any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.said = append(b.said, fmt.Sprintf(format, args...))
			reporter.Line(b.said[len(b.said)-1])
		},
		Restart: func(f deploy.Finish) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.restarts = append(b.restarts, f)
			return nil
		},
	})
	b.server = deploy.NewServer(nil)
	return b
}

func (b *bed) write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	name = filepath.Join(b.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), mode)); err != nil {
		t.Fatal(err)
	}
}

// disk gives the machine a disk of noise.
func (b *bed) disk(t *testing.T, name string, size int) string {
	t.Helper()
	b.write(t, "dev/"+name, string(noise(9, size)), 0o600)
	b.write(t, "sys/block/"+name+"/size", fmt.Sprint(size/512), 0o644)
	b.write(t, "sys/block/"+name+"/queue/logical_block_size", "512\n", 0o644)
	return filepath.Join(b.dir, "dev", name)
}

func (b *bed) task() deploy.Task {
	return deploy.Task{Kind: deploy.Deploy, Image: &deploy.Image{Source: b.url, Digest: b.digest},
		Seed: &deploy.Seed{InstanceID: "i-1", Hostname: "node1", Metadata: json.RawMessage(`{"a":1}`)}}
}

// deploy has the agent do a task and returns how it ended.
func (b *bed) deploy(t *testing.T, task deploy.Task) *deploy.Result {
	t.Helper()
	web := httptest.NewServer(b.server)
	defer web.Close()
	d, err := b.server.Assign("node1", task, deploy.Options{Event: func(e deploy.Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.steps = append(b.steps, e)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if b.Client, err = deploy.NewClient(web.URL, d.Token); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	var g sync.WaitGroup
	g.Go(func() { _ = b.Reporter.Run(ctx, b.Client) })
	g.Go(func() { _ = b.Run(ctx) })
	r, err := d.Wait(ctx)
	if err != nil {
		t.Error(err)
	}
	stop()
	_ = d.Close()
	g.Wait()
	return r
}

// bootable tells whether anything at the edges of a disk could be started.
func bootable(t *testing.T, disk string) bool {
	t.Helper()
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, edge)
	return !bytes.Equal(b[:edge], zeros) || !bytes.Equal(b[len(b)-edge:], zeros)
}

// A disk larger than the image gets all of it, a table of its own and a seed.
func TestDeploy(t *testing.T) {
	b := newBed(t)
	disk := b.disk(t, "vda", 16*mib+4096)
	r := b.deploy(t, b.task())
	if !r.OK() || r.Disk != disk {
		t.Fatalf("%+v", r)
	}
	got, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[mib:7*mib], b.image[mib:7*mib]) {
		t.Error("the content is not the image's")
	}
	table, err := gpt.Read(bytes.NewReader(got), int64(len(got)), 512)
	if err != nil || table.Backup || len(table.Partitions) != 3 {
		t.Fatalf("%+v, %v", table, err)
	}
	state, seed := table.Partitions[1], table.Partitions[2]
	if seed.Name != "seed" || seed.Start+seed.Size < int64(len(got))-2*mib || state.Start+state.Size != seed.Start {
		t.Errorf("state %+v, seed %+v", state, seed)
	}
	volume, err := fat.Open(bytes.NewReader(got[seed.Start:][:seed.Size]))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := volume.ReadFile("goldsmith/metadata.json", mib); err != nil || !bytes.Contains(text, []byte(`"a": 1`)) {
		t.Errorf("metadata %q, %v", text, err)
	}
	got[512] ^= 1
	if table, err := gpt.Read(bytes.NewReader(got), int64(len(got)), 512); err != nil || !table.Backup || len(table.Partitions) != 3 {
		t.Errorf("the backup table: %+v, %v", table, err)
	}
	if len(b.restarts) != 1 || b.restarts[0] != "" {
		t.Errorf("restarts: %v", b.restarts)
	}
	var names []string
	for _, e := range b.steps {
		if e.State == deploy.End {
			names = append(names, e.Step)
		}
	}
	if got, want := strings.Join(names, " "), "05-inventory 10-image 15-disks 30-disk 50-write 60-verify 70-seed 80-boot 90-finish"; got != want {
		t.Errorf("steps %s; want %s", got, want)
	}
	if left, _ := os.ReadDir(b.Scratch); len(left) > 0 {
		t.Errorf("left in memory: %v", left)
	}
}

// Images that must not be written leave the disk as it was.
func TestRefusedImages(t *testing.T) {
	b := newBed(t)
	key, err := trust.NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := trust.NewKey(false)
	if err != nil {
		t.Fatal(err)
	}
	pem := func(k *trust.PrivateKey) string { return string(k.Public.PEM()) }
	disk := b.disk(t, "vda", 16*mib)
	expect := func(name, step, want string, change func(*deploy.Task)) {
		t.Helper()
		before, _ := os.ReadFile(disk)
		task := b.task()
		change(&task)
		r := b.deploy(t, task)
		if r.Step != step || !strings.Contains(r.Error, want) {
			t.Errorf("%s: %+v; want %q in step %s", name, r, want, step)
		}
		if after, _ := os.ReadFile(disk); !bytes.Equal(before, after) {
			t.Errorf("%s: the disk was changed", name)
		}
	}
	expect("unsigned", "10-image", "is not signed", func(k *deploy.Task) { k.Image.Keys = []string{pem(key)} })
	sign := func(version string) {
		envelope, err := trust.Sign(b.digest, trust.Predicate{Name: "demo", Version: version, Arch: "amd64"}, other)
		if err != nil {
			t.Fatal(err)
		}
		blob := registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: envelope}
		if _, err := b.layout.Attach(b.digest, registry.SignatureType, nil, blob); err != nil {
			t.Fatal(err)
		}
	}
	sign("1")
	expect("another's signature", "10-image", "which is not trusted", func(k *deploy.Task) { k.Image.Keys = []string{pem(key)} })
	expect("no key", "10-image", "trusted key 1", func(k *deploy.Task) { k.Image.Keys = []string{"x"} })
	expect("forged digest", "10-image", "404", func(k *deploy.Task) { k.Image.Digest = "sha256:" + strings.Repeat("0", 64) })
	expect("larger disk wanted", "15-disks", "0 disks fit", func(k *deploy.Task) { k.Storage.Size = 1 << 40 })
	expect("no RAID step", "30-disk", "no deploy step made storage of level mirror", func(k *deploy.Task) { k.Storage.Level = "mirror" })
	if len(b.restarts) > 0 {
		t.Errorf("restarts: %v", b.restarts)
	}
	task := b.task()
	task.Image.Keys = []string{pem(key), pem(other)}
	if r := b.deploy(t, task); !r.OK() {
		t.Errorf("a good signature: %+v", r)
	}
	sign("2")
	expect("a signature of another version", "10-image", "the signature is for demo 2",
		func(k *deploy.Task) { k.Image.Keys = []string{pem(other)} })
}

// A source that changes bytes, or ends, leaves a disk that nothing starts.
func TestBadSource(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(http.ResponseWriter, *http.Request, http.Handler)
		want  string
	}{
		"ends": {func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			http.Error(w, "gone", http.StatusNotFound)
		}, "404"},
		"other bytes": {func(w http.ResponseWriter, r *http.Request, h http.Handler) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			body := rec.Body.Bytes()
			body[len(body)/2] ^= 1
			for k, v := range rec.Header() {
				w.Header()[k] = v
			}
			w.WriteHeader(rec.Code)
			_, _ = w.Write(body)
		}, "404"},
	} {
		b := newBed(t)
		disk := b.disk(t, "vda", 16*mib)
		files := http.FileServer(http.Dir(b.layout.Dir()))
		var mu sync.Mutex
		large := 0
		site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fi, err := os.Stat(filepath.Join(b.layout.Dir(), r.URL.Path))
			mu.Lock()
			defer mu.Unlock()
			if err == nil && fi.Size() > mib { // the disk
				if large++; large > 1 {
					http.Error(w, "gone", http.StatusNotFound)
					return
				}
				c.spoil(w, r, files)
				return
			}
			files.ServeHTTP(w, r)
		}))
		task := b.task()
		task.Image.Source = site.URL
		r := b.deploy(t, task)
		site.Close()
		if r.Step != "50-write" || !strings.Contains(r.Error, c.want) {
			t.Errorf("%s: %+v", name, r)
		}
		if bootable(t, disk) {
			t.Errorf("%s: the disk can be started", name)
		}
	}
}

func TestKexec(t *testing.T) {
	b := newBed(t)
	b.disk(t, "vda", 16*mib)
	task := b.task()
	task.Finish = deploy.Kexec
	if r := b.deploy(t, task); r.Step != "90-finish" || !strings.Contains(r.Error, "unified kernel image") {
		t.Errorf("noise as kernel: %+v", r)
	}
	var u *release.UKI
	sum := sha256.Sum256(b.image[3*mib:][:4096])
	u = &release.UKI{Offset: 3 * mib, Size: 4096, SHA256: hex.EncodeToString(sum[:])}
	b.image[3*mib] ^= 1
	if _, err := readKernel(bytes.NewReader(b.image), u); err == nil || !strings.Contains(err.Error(), "not the image's") {
		t.Errorf("a changed kernel: %v", err)
	}
}
