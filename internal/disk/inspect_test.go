package disk

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"goldsmith/internal/command"
	"goldsmith/internal/erofs"
	"goldsmith/internal/tree"
)

func TestInspect(t *testing.T) {
	name, l := mustCreate(t, sampleConfig())
	r, err := Inspect(name)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]Partition(nil), l.Partitions...)
	for i := range want {
		want[i].SHA256 = ""
	}
	want[0].Used = r.Partitions[0].Used // clusters there, files here
	if diff := cmp.Diff(want, r.Partitions, cmp.AllowUnexported(Partition{})); diff != "" {
		t.Errorf("partitions (-want +got):\n%s", diff)
	}
	if used := r.Partitions[0].Used; used < l.Partitions[0].Used || used > 2*mib {
		t.Errorf("%d bytes used on the EFI partition, its files have %d", used, l.Partitions[0].Used)
	}
	if len(r.Packages) != 1 || r.Packages[0].Version != "1:1.2" || string(r.Manifest) != `{"name":"demo"}` ||
		r.OS["ID"] != "debian" || r.Notes != nil {
		text, _ := json.Marshal(r)
		t.Errorf("report: %s", text)
	}
	// The root alone can be looked into as well.
	r, err = Inspect(extract(t, name, l.part("root-a")))
	if err != nil || len(r.Packages) != 1 || len(r.Partitions) != 1 {
		t.Errorf("bare root: %+v, %v", r, err)
	}
}

func TestInspectOthers(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ content, want string }{
		"empty":  {"", "no GUID partition table"},
		"zeros":  {strings.Repeat("\x00", 1<<20), "no GUID partition table"},
		"qcow2":  {"QFI\xfb" + strings.Repeat("x", 4096), "qcow2 image"},
		"raw.gz": {"\x1f\x8b" + strings.Repeat("x", 4096), "gzip"},
	} {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(p); command.Status(err) != command.StatusUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
	for _, p := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := Inspect(p); command.Status(err) != command.StatusUsage {
			t.Errorf("%s: got %v", p, err)
		}
	}
}

// Whatever a file system claims, Inspect ends and does not fall over.
func FuzzInspect(f *testing.F) {
	c := sampleConfig()
	for _, p := range []string{"boot", "usr/lib/modules", "usr/lib/systemd", "var/big"} {
		c.Root.Remove(p)
	}
	c.Root.Remove("var/big2")
	image := buildRoot(f, c.Root)
	f.Add(uint16(0), uint32(0), uint16(100), uint32(5))
	f.Fuzz(func(t *testing.T, at1 uint16, v1 uint32, at2 uint16, v2 uint32) {
		b := bytes.Clone(image)
		binary.LittleEndian.PutUint32(b[1024+int(at1)%(len(b)-1028):], v1)
		binary.LittleEndian.PutUint32(b[1024+int(at2)%(len(b)-1028):], v2)
		le.PutUint32(b[1024:], 0xe0f5e1e2)
		name := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = Inspect(name)
	})
}

func buildRoot(t testing.TB, tr *tree.Tree) []byte {
	f, err := os.Create(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := erofs.Write(f, tr, erofs.Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// stuck reads until it is let go.
type stuck chan struct{}

func (s stuck) ReadAt(p []byte, _ int64) (int, error) {
	<-s
	return 0, io.ErrUnexpectedEOF
}

// A file system in which its reader finds no end becomes a note, too.
func TestInspectEnds(t *testing.T) {
	rootTime = time.Millisecond
	defer func() { rootTime = usualRootTime }()
	s := make(stuck)
	defer close(s)
	r := &Report{}
	r.readRoot(io.NewSectionReader(s, 0, 1<<20), "root-a")
	if len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "root-a: its file system could not be read in") {
		t.Errorf("notes %q", r.Notes)
	}
}
