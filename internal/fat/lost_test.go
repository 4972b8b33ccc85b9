package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tape is a volume in memory; after some writes it takes no more.
type tape struct {
	b    []byte
	left int
}

var errTorn = errors.New("torn off")

func (v *tape) ReadAt(b []byte, off int64) (int, error) { return bytes.NewReader(v.b).ReadAt(b, off) }

func (v *tape) WriteAt(b []byte, off int64) (int, error) {
	if v.left--; v.left < 0 {
		return 0, errTorn
	}
	return copy(v.b[off:], b), nil
}

func (v *tape) Sync() error { return nil }

// lossy is a FAT32 volume with files, some of which only its tables know.
func lossy(t testing.TB) []byte {
	return losing(t, map[string]string{
		"EFI/Linux/demo_1.efi": strings.Repeat("kernel", 9000), "EFI/Linux/demo_2+3.efi": strings.Repeat("other ", 4000),
		"bios/demo_1/linux": strings.Repeat("l", 5000), "empty": "", "TAIL.BIN": "tail",
		"LOST1.BIN": strings.Repeat("lost", 90_000), "bios/LOST2.BIN": strings.Repeat("lost", 300), "bios/LOST3.BIN": "l",
	})
}

// losing makes a volume of files; those named LOST1.BIN and so on are lost.
func losing(t testing.TB, files map[string]string) []byte {
	b := made(t, files, "-F", "32", "-s", "1")
	for name := range files {
		i := strings.Index(name, "LOST")
		if i < 0 {
			continue
		}
		at := bytes.Index(b, []byte(name[i:i+5]+"   BIN"))
		if at < 0 || at%entrySize != 0 {
			t.Fatalf("%s is at %d", name, at)
		}
		b[at] = 0xe5
	}
	return b
}

// complaints are what fsck.fat finds.
func complaints(t testing.TB, b []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "img")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("fsck.fat", "-n", name).CombinedOutput()
	_, rest, _ := strings.Cut(string(out), "\n")
	return rest
}

func TestFreeLost(t *testing.T) {
	before := lossy(t)
	if said := complaints(t, before); !strings.Contains(said, "Reclaimed") {
		t.Fatalf("nothing is lost: %s", said)
	}
	const clusters = (360_000+511)/512 + 3 + 1
	if lost, err := Lost(bytes.NewReader(before)); len(lost) != clusters || err != nil {
		t.Errorf("%d are lost, %v; want %d", len(lost), err, clusters)
	}
	// Whenever it is cut short, files are whole, and the next one ends it.
	for n := 0; ; n++ {
		v := &tape{bytes.Clone(before), n}
		freed, err := FreeLost(v)
		whole := err == nil
		if !whole && !errors.Is(err, errTorn) {
			t.Fatal(err)
		}
		r, err := Open(v)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"EFI/Linux/demo_1.efi": "kernelkernel", "tail.bin": "tail"} {
			if got, err := r.ReadFile(name, 1<<20); err != nil || !strings.HasPrefix(string(got), want) {
				t.Fatalf("after %d writes, %s: %v", n, name, err)
			}
		}
		if !whole {
			for _, line := range strings.Split(complaints(t, v.b), "\n") {
				for _, bad := range []string{"Bad", "Contains", "share", "size"} {
					if strings.Contains(line, bad) {
						t.Errorf("after %d writes: %s", n, line)
					}
				}
			}
			v.left = 1 << 20
			if _, err := FreeLost(v); err != nil {
				t.Fatal(err)
			}
		} else if freed != clusters*512 {
			t.Errorf("freed %d bytes", freed)
		}
		if said := complaints(t, v.b); strings.Count(said, "\n") != 1 {
			t.Errorf("after %d writes and another run: %s", n, said)
		}
		if whole {
			v.left = 0
			if freed, err := FreeLost(v); freed != 0 || err != nil {
				t.Errorf("once more: %d, %v", freed, err)
			}
			return
		}
	}
}

// Where more is wrong than lost clusters, nothing is changed.
func TestFreeLostLeavesDamage(t *testing.T) {
	entry := func(b []byte, name string) []byte { return b[bytes.Index(b, []byte(name)):][:entrySize] }
	le := binary.LittleEndian
	for name, spoil := range map[string]func(b []byte, v *Reader){
		"shared": func(b []byte, _ *Reader) { copy(entry(b, "TAIL    BIN")[26:28], entry(b, "BIOS       ")[26:28]) },
		"loop": func(b []byte, v *Reader) {
			c := uint32(le.Uint16(entry(b, "TAIL    BIN")[26:]))
			le.PutUint32(b[v.fatStart+int64(c)*4:], c)
		},
		"free": func(b []byte, v *Reader) {
			c := uint32(le.Uint16(entry(b, "TAIL    BIN")[26:]))
			le.PutUint32(b[v.fatStart+int64(c)*4:], 0)
		},
		"short":     func(b []byte, _ *Reader) { le.PutUint32(entry(b, "TAIL    BIN")[28:], 5000) },
		"nowhere":   func(b []byte, _ *Reader) { le.PutUint16(entry(b, "TAIL    BIN")[20:], 0xfff) },
		"directory": func(b []byte, _ *Reader) { le.PutUint16(entry(b, "BIOS       ")[26:], 0) },
		"bad": func(b []byte, v *Reader) {
			c := uint32(le.Uint16(entry(b, "TAIL    BIN")[26:]))
			le.PutUint32(b[v.fatStart+int64(c)*4:], clusterBad)
		},
		"unnamed":   func(b []byte, _ *Reader) { entry(b, ".          ")[0] = 'N' },
		"elsewhere": func(b []byte, _ *Reader) { entry(b, ".          ")[20]++ },
		"dot file":  func(b []byte, _ *Reader) { entry(b, "..         ")[11] = attrArchive },
		"dot label": func(b []byte, _ *Reader) { entry(b, "..         ")[11] |= attrVolume },
	} {
		t.Run(name, func(t *testing.T) {
			v := &tape{lossy(t), 1 << 20}
			r, err := Open(v)
			if err != nil {
				t.Fatal(err)
			}
			spoil(v.b, r)
			before := bytes.Clone(v.b)
			if _, err := FreeLost(v); !errors.Is(err, errOdd) || !bytes.Equal(v.b, before) {
				t.Errorf("%v, changed %v", err, !bytes.Equal(v.b, before))
			}
		})
	}
}

// A driver may see an entry behind one that was never used.
func TestFreeLostLooksBehindTheEnd(t *testing.T) {
	b := lossy(t)
	at := bytes.Index(b, []byte("TAIL    BIN"))
	end := at
	for b[end] != 0 {
		end += entrySize
	}
	copy(b[end+entrySize:], b[at:at+entrySize])
	b[at] = 0xe5
	before, err := Lost(bytes.NewReader(lossy(t)))
	if err != nil {
		t.Fatal(err)
	}
	if lost, err := Lost(bytes.NewReader(b)); len(lost) != len(before) || err != nil {
		t.Errorf("%d are lost, %v; want %d", len(lost), err, len(before))
	}
}

func FuzzLost(f *testing.F) {
	b := lossy(f)
	f.Add(uint32(0), uint32(0))
	f.Add(uint32(32*512+20), uint32(4))
	f.Fuzz(func(t *testing.T, at, value uint32) {
		v := &tape{bytes.Clone(b), 1 << 20}
		binary.LittleEndian.PutUint32(v.b[int64(at)%int64(len(b)-4):], value)
		_, _ = FreeLost(v) // it ends
	})
}
