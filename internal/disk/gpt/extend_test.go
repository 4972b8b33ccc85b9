package gpt

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"goldsmith/internal/testenv"
)

// device is a disk in memory that may lose power: after that many more writes
// it keeps nothing.
type device struct {
	data   []byte
	writes int
}

var errPower = errors.New("power cut")

func (d *device) ReadAt(b []byte, off int64) (int, error) {
	return bytes.NewReader(d.data).ReadAt(b, off)
}

func (d *device) WriteAt(b []byte, off int64) (int, error) {
	if d.writes == 0 {
		return 0, errPower
	}
	d.writes--
	return copy(d.data[off:], b), nil
}

func larger(sector int) *device {
	disk := makeDisk(sector, nil)
	return &device{data: append(disk, make([]byte, 5<<20)...), writes: -1}
}

func TestExtend(t *testing.T) {
	for _, sector := range []int{512, 4096} {
		d := larger(sector)
		size, err := Extend(d, int64(len(d.data)), sector, 4)
		if err != nil {
			t.Fatal(err)
		}
		got, err := read(d.data, sector)
		if err != nil {
			t.Fatal(err)
		}
		p := got.Partitions[1]
		if got.Backup || p.Size != size || (p.Start+p.Size)%extendUnit != 0 ||
			int64(len(d.data))-p.Start-p.Size > 2*extendUnit {
			t.Errorf("sector %d: partition %+v, size %d, disk %d", sector, p, size, len(d.data))
		}
		d.data[sector] ^= 0xff
		if got, err = read(d.data, sector); err != nil || !got.Backup || got.Partitions[1] != p {
			t.Errorf("sector %d: the backup has %+v, %v", sector, got, err)
		}
		d.data[sector] ^= 0xff
		if again, err := Extend(d, int64(len(d.data)), sector, 4); again != 0 || err != nil {
			t.Errorf("sector %d: again: %d, %v", sector, again, err)
		}
	}
}

func TestExtendRefuses(t *testing.T) {
	for number, want := range map[int]string{1: "lies behind", 2: "no partition 2"} {
		d := larger(512)
		d.writes = 0
		if _, err := Extend(d, int64(len(d.data)), 512, number); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("partition %d: %v", number, err)
		}
	}
}

// At whatever write the power goes, the table that is found is a sound one.
func TestExtendPowerCut(t *testing.T) {
	for writes := range 4 {
		d := larger(512)
		d.writes = writes
		_, err := Extend(d, int64(len(d.data)), 512, 4)
		if (writes < 3) != errors.Is(err, errPower) {
			t.Fatalf("%d writes: %v", writes, err)
		}
		got, err := read(d.data, 512)
		if err != nil || got.Backup || len(got.Partitions) != 2 {
			t.Errorf("%d writes: %+v, %v", writes, got, err)
		}
	}
}

func TestExtendForSgdisk(t *testing.T) {
	testenv.Need(t, "sgdisk")
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := exec.Command("sgdisk", append(args, name)...).CombinedOutput()
		if err != nil {
			t.Fatalf("sgdisk %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("-n", "1:2048:+10M", "-n", "2:0:+20M")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 200 << 20
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if n, err := Extend(f, size, 512, 2); err != nil || n != 188<<20 {
		t.Fatalf("Extend = %d, %v", n, err)
	}
	if out := run("-v"); !strings.Contains(out, "No problems found") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
}
