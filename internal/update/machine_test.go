package update

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/diskfs/go-diskfs/partition/gpt"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/release"
	"goldsmith/internal/testenv"
	"goldsmith/internal/uki"
	"goldsmith/internal/verity"
)

// bench is a machine on a table: a disk image with a partition table, a
// directory as EFI partition, and boot loaders that do as the real ones.
type bench struct {
	*Machine
	t      *testing.T
	esp    string
	said   []string
	boots  int
	mounts int
	bios   bool
}

const slotSize = 1 << 20

// newBench makes a machine that runs version 1 in slot a.
func newBench(t *testing.T, bios bool) *bench {
	dir := t.TempDir()
	b := &bench{t: t, esp: filepath.Join(dir, "esp"), bios: bios}
	b.Machine = &Machine{State: filepath.Join(dir, "boot"), Root: filepath.Join(dir, "root")}
	b.Machine.Boot = Boot{Disk: filepath.Join(dir, "disk"), Slot: "a", Firmware: "uefi"}
	b.ESP = b.mount
	b.Say = func(format string, args ...any) { b.said = append(b.said, fmt.Sprintf(format, args...)) }
	b.Now = func() time.Time { return time.Unix(1700000000, 0) }
	b.table()
	first := b.image("1", 0)
	for _, d := range []string{bootentry.Dir, bootentry.GrubDir, "bios"} {
		if bios || d == bootentry.Dir {
			b.must(os.MkdirAll(filepath.Join(b.esp, d), 0o755))
		}
	}
	b.writeSlot("a", first)
	b.must(os.WriteFile(filepath.Join(b.esp, bootentry.Dir, "demo_1.efi"), kernel("1"), 0o600))
	if bios {
		env, err := bootentry.Env{bootentry.EnvGood: "demo_1"}.Bytes()
		b.must(err)
		b.must(os.WriteFile(filepath.Join(b.esp, bootentry.EnvFile), env, 0o600))
		b.must(os.WriteFile(filepath.Join(b.esp, bootentry.ConfigFile), []byte(bootentry.GrubConfig), 0o600))
		b.must(os.MkdirAll(filepath.Join(b.esp, "bios/demo_1"), 0o755))
		parts, err := uki.Parse(kernel("1"))
		b.must(err)
		for name, content := range biosFiles("demo_1", parts) {
			b.must(os.WriteFile(filepath.Join(b.esp, "bios/demo_1", name), content, 0o600))
		}
	}
	b.runs(first)
	b.BootID = "boot-0"
	return b
}

// mount mounts the EFI partition as mountESP does: once at a time.
func (b *bench) mount() (dir string, release func() error, err error) {
	b.mounts = 1 // what was mounted is unmounted
	return b.esp, func() error {
		if b.mounts--; b.mounts < 0 {
			return errors.New("EFI partition: it is not mounted")
		}
		return nil
	}, nil
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) table() {
	f, err := os.Create(b.Boot.Disk)
	b.must(err)
	defer f.Close()
	const size = 16 << 20
	b.must(f.Truncate(size))
	t := &gpt.Table{GUID: strings.ToUpper(guid(digestOf("disk"))), ProtectiveMBR: true, LogicalSectorSize: 512,
		PhysicalSectorSize: 512}
	for i, name := range []string{"esp", "root-a", "verity-a", "root-b", "verity-b", "state"} {
		t.Partitions = append(t.Partitions, &gpt.Partition{
			Index: i + 1, Name: name, Type: gpt.LinuxFilesystem, GUID: strings.ToUpper(guid(digestOf(name))),
			Start: uint64(2048 * (i + 1)), End: uint64(2048*(i+2) - 1), Size: slotSize,
		})
	}
	b.must(t.Write(tableFile{f}, size))
}

// tableFile is a file as go-diskfs wants it.
type tableFile struct{ *os.File }

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// content is the root of a version: a part is its own, the rest all share.
func content(version string) []byte {
	b := make([]byte, 64*verity.BlockSize)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	copy(b[8*verity.BlockSize:], bytes.Repeat([]byte("version "+version+" "), 400))
	return b
}

// kernel is the unified kernel image of a version, as far as uki.Parse looks.
func kernel(version string) []byte { return kernelFor(version, tree(version, 0)) }

// kernelFor is the one that starts that root.
func kernelFor(version string, root verity.Hash) []byte {
	b, err := uki.Build(testenv.EFIProgram(),
		uki.Image{Cmdline: "roothash=" + hex.EncodeToString(root[:]), Linux: []byte("kernel " + version), Initrd: []byte("initrd")})
	if err != nil {
		panic(err)
	}
	return b
}

// tree is the root hash of a version.
func tree(version string, variant int) verity.Hash {
	root := content(fmt.Sprint(version, "/", variant))
	salt, _ := hex.DecodeString(digestOf("salt" + version))
	hash, _, err := verity.Write(&buffer{}, bytes.NewReader(root), int64(len(root)), verity.Params{Salt: salt})
	if err != nil {
		panic(err)
	}
	return hash
}

// image is a version as an update; variant makes another image of it.
func (b *bench) image(version string, variant int) Image {
	root, hash := content(fmt.Sprint(version, "/", variant)), tree(version, variant)
	program := kernelFor(version, hash)
	return Image{
		Digest: "sha256:" + digestOf(fmt.Sprint("image", version, variant)),
		Release: &release.Release{
			Format: release.Format, Name: "demo", Version: version, Arch: runtime.GOARCH, Disk: release.Disk{Size: 1 << 30, SHA256: digestOf("disk")},
			Root: &release.Root{Size: int64(len(root)), RootHash: hex.EncodeToString(hash[:]), Salt: digestOf("salt" + version),
				UUID: "00000000-0000-0000-0000-000000000000"},
			UKI: &release.UKI{ID: "demo_" + version, Size: int64(len(program)), SHA256: digestOf(string(program))},
		},
		Root: func(_ context.Context, dst Target, seeds []Seed) error { return put(dst, root) },
		UKI:  func(_ context.Context, dst Target, seeds []Seed) error { return put(dst, program) },
	}
}

// buffer is a file in memory.
type buffer struct{ bytes.Buffer }

func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	for int64(b.Len()) < off+int64(len(p)) {
		b.WriteByte(0)
	}
	return copy(b.Bytes()[off:], p), nil
}

func put(dst io.WriterAt, b []byte) error {
	_, err := dst.WriteAt(b, 0)
	return err
}

func (b *bench) writeSlot(name string, img Image) {
	d, err := openDisk(b.Boot.Disk)
	b.must(err)
	root, err := d.open("root-"+name, os.O_RDWR)
	b.must(err)
	defer root.Close()
	b.must(img.Root(b.t.Context(), root, nil))
	b.must(b.writeTree(d, name, root, img.Release.Root))
	b.must(d.setRoot(name, img.Release.Root.RootHash))
}

// runs says that an image runs now.
func (b *bench) runs(img Image) {
	b.Boot.RootHash = img.Release.Root.RootHash
	name := filepath.Join(b.Root, "usr/share/goldsmith/manifest.json")
	b.must(os.MkdirAll(filepath.Dir(name), 0o755))
	text, err := json.Marshal(map[string]string{"name": img.Release.Name, "version": img.Release.Version})
	b.must(err)
	b.must(os.WriteFile(name, text, 0o600))
}

// choose is what the boot loader does: it lowers the counter and says which
// version it starts.
func (b *bench) choose() string {
	if b.bios {
		env, err := bootentry.ParseEnv(b.read(bootentry.EnvFile))
		b.must(err)
		id, left := env.Choice()
		if left > 0 {
			env[bootentry.EnvLeft] = strconv.Itoa(left - 1)
			out, err := env.Bytes()
			b.must(err)
			b.must(os.WriteFile(filepath.Join(b.esp, bootentry.EnvFile), out, 0o600))
		}
		return id
	}
	e := &esp{dir: b.esp}
	list, err := e.entries()
	b.must(err)
	first, ok := bootentry.Choice(list)
	if !ok {
		b.t.Fatal("nothing to start: a brick")
	}
	if first.Counted && first.Left > 0 {
		next := first
		next.Left, next.Done = next.Left-1, next.Done+1
		b.must(os.Rename(e.path(bootentry.Dir, first.File()), e.path(bootentry.Dir, next.File())))
	}
	return first.ID
}

func (b *bench) read(name string) []byte {
	text, err := os.ReadFile(filepath.Join(b.esp, name))
	b.must(err)
	return text
}

// start starts the machine: the boot loader chooses, the kernel finds its slot
// by GUID. It returns the ID that was started.
func (b *bench) start(images ...Image) string {
	b.boots++
	b.BootID = fmt.Sprint("boot-", b.boots)
	id := b.choose()
	d, err := openDisk(b.Boot.Disk)
	b.must(err)
	for _, img := range images {
		for _, slot := range []string{"a", "b"} {
			if p, _ := d.part("root-" + slot); img.Release.UKI.ID == id &&
				p.GUID == guid(img.Release.Root.RootHash[:32]) {
				b.runs(img)
				b.Boot.Slot = slot
				return id
			}
		}
	}
	b.t.Fatalf("%s has no root: a brick", id)
	return ""
}

func (b *bench) load() *Record {
	r, err := load(b.State)
	b.must(err)
	return r
}

// files are the names on the EFI partition.
func (b *bench) files() string {
	found := map[string]bool{}
	b.must(filepath.WalkDir(b.esp, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			rel, _ := filepath.Rel(b.esp, path)
			found[rel] = true
		}
		return err
	}))
	return strings.Join(slices.Sorted(maps.Keys(found)), " ")
}

func both(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Run("uefi", func(t *testing.T) { f(t, newBench(t, false)) })
	t.Run("bios", func(t *testing.T) { f(t, newBench(t, true)) })
}
