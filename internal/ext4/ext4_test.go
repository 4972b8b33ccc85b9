package ext4

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"goldsmith/internal/testenv"
	"goldsmith/internal/tree"
)

var sampleTime = time.Unix(1_600_000_000, 0)

// sampleDir makes a directory with every kind of file, small and large, whole
// and with holes.
func sampleDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string, b []byte) {
		t.Helper()
		must(os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		must(os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	file("etc/os-release", []byte("ID=test\n"))
	file("etc/empty", nil)
	file("etc/ünïcode name", []byte("x"))
	for _, n := range []int{59, 60, 61, 120, 1023, 1024, 4097, 70 << 10, 1 << 20} {
		file(fmt.Sprintf("data/%d", n), bytes.Repeat([]byte("golden images, "), n/15+1)[:n])
	}
	for i := range 300 {
		file(fmt.Sprintf("many/a name that is long enough to need an index %04d", i), nil)
	}
	f, err := os.Create(filepath.Join(dir, "data/holes"))
	must(err)
	for _, off := range []int64{0, 300 << 10, 2 << 20, 6<<20 - 6} {
		_, err := f.WriteAt([]byte("island"), off)
		must(err)
	}
	must(f.Close())
	must(os.Link(filepath.Join(dir, "etc/os-release"), filepath.Join(dir, "linked")))
	must(os.Symlink("etc/os-release", filepath.Join(dir, "short")))
	must(os.Symlink(strings.Repeat("x/", 100), filepath.Join(dir, "long")))
	must(os.Symlink(strings.Repeat("y", 59), filepath.Join(dir, "edge59")))
	must(os.Symlink(strings.Repeat("y", 60), filepath.Join(dir, "edge60")))
	must(unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(os.Chmod(filepath.Join(dir, "data/1024"), 0o755|os.ModeSetuid))
	must(os.Chown(filepath.Join(dir, "data/4097"), 70000, 80000))
	for name, value := range map[string]string{"user.note": "hello", "security.capability": "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.long": strings.Repeat("v", 600)} {
		must(unix.Lsetxattr(filepath.Join(dir, "data/1024"), name, []byte(value), 0))
	}
	must(filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		ts := []unix.Timespec{unix.NsecToTimespec(sampleTime.UnixNano()), unix.NsecToTimespec(sampleTime.UnixNano())}
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}))
	return dir
}

// describe says everything about an entry.
func describe(e *tree.Entry, content []byte) string {
	if e.LinkTo != "" {
		return "link to " + e.LinkTo
	}
	if e.Path == "." {
		e.ModTime = sampleTime // mke2fs gives the root its own
	}
	s := fmt.Sprintf("%o %d:%d %d %q %d,%d %q", e.Mode, e.UID, e.GID, e.ModTime.Unix(), e.Target, e.Major, e.Minor, e.Xattrs)
	if e.Kind() == tree.ModeRegular {
		s += fmt.Sprintf(" %d %x", e.Size, sha256.Sum256(content))
	}
	return s
}

func wantTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	tr, err := tree.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range tr.All() {
		var b []byte
		if e.Kind() == tree.ModeRegular && e.LinkTo == "" {
			if b, err = e.ReadFile(); err != nil {
				t.Fatal(err)
			}
		}
		out[e.Path] = describe(e, b)
	}
	return out
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m.b)) {
		return 0, io.ErrShortWrite
	}
	return copy(m.b[off:], p), nil
}

// readAll reads the whole file system.
func readAll(r io.ReaderAt, size int64) (map[string]string, error) {
	return readSome(r, size, 64<<20)
}

// readSome stops at a file larger than that.
func readSome(r io.ReaderAt, size, most int64) (map[string]string, error) {
	fs, err := Open(r, size)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	return out, fs.Walk(func(e *tree.Entry, c *Content) error {
		var m memory
		if c != nil {
			if e.Size > most {
				return errors.New("too large for a test")
			}
			m.b = make([]byte, e.Size)
			if err := c.CopyTo(&m); err != nil {
				return err
			}
		}
		out[e.Path] = describe(e, m.b)
		return nil
	})
}

func mke2fs(t *testing.T, dir string, size string, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "fs")
	args = append(append([]string{"-q", "-F", "-d", dir}, args...), image, size)
	if out, err := exec.Command("mke2fs", args...).CombinedOutput(); err != nil {
		t.Fatalf("mke2fs %q: %v\n%s", args, err, out)
	}
	return image
}

// Whatever the format's options are, what was put in comes out.
func TestReadsWhatMke2fsWrites(t *testing.T) {
	testenv.Need(t, "mke2fs", "e2fsck", "debugfs")
	testenv.NeedRoot(t)
	dir := sampleDir(t)
	want := wantTree(t, dir)
	for name, args := range map[string][]string{
		"ext2":           {"-t", "ext2"},
		"ext2 1K":        {"-t", "ext2", "-b", "1024"},
		"ext3":           {"-t", "ext3"},
		"ext4":           {"-t", "ext4"},
		"ext4 1K":        {"-t", "ext4", "-b", "1024"},
		"ext4 2K 64-bit": {"-t", "ext4", "-b", "2048", "-O", "64bit,metadata_csum"},
		"ext4 old":       {"-t", "ext4", "-O", "^64bit,^metadata_csum,^flex_bg", "-I", "256"},
		"small inodes":   {"-t", "ext4", "-O", "^metadata_csum", "-I", "128"},
		"csum seed":      {"-t", "ext4", "-O", "metadata_csum_seed,large_dir"},
		"mmp":            {"-t", "ext4", "-O", "mmp"},
		"inline":         {"-t", "ext4", "-O", "inline_data", "-I", "512"},
		"meta_bg":        {"-t", "ext4", "-b", "1024", "-g", "1024", "-O", "meta_bg,^resize_inode"},
		"bigalloc":       {"-t", "ext4", "-O", "bigalloc"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := mke2fs(t, dir, "32M", args...)
			// e2fsck gives large directories an index. With mmp it would wait for
			// other machines.
			if name != "mmp" {
				out, err := exec.Command("e2fsck", "-fyD", image).CombinedOutput()
				if err != nil && !strings.Contains(err.Error(), "status 1") {
					t.Fatalf("e2fsck: %v\n%s", err, out)
				}
			}
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := readAll(f, 32<<20)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%.3000s", diff)
			}
			fs, _ := Open(f, 32<<20)
			for p, want := range map[string]bool{"etc/os-release": true, "/many": true, "etc/no": false, "etc/os-release/x": false, "short/x": false} {
				if got, err := fs.Exists(p); got != want || err != nil {
					t.Errorf("Exists(%q) = %v, %v", p, got, err)
				}
			}
		})
	}
}

// debug changes a file system by commands of debugfs.
func debug(t *testing.T, image string, commands ...string) {
	t.Helper()
	for _, c := range commands {
		if out, err := exec.Command("debugfs", "-w", "-R", c, image).CombinedOutput(); err != nil {
			t.Fatalf("debugfs %s: %v\n%s", c, err, out)
		}
	}
}

func tiny(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/file"), bytes.Repeat([]byte("x"), 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	return mke2fs(t, dir, "256K", append([]string{"-b", "1024", "-N", "16", "-O", "^has_journal,^resize_inode"}, args...)...)
}

func readFile(t *testing.T, image string) error {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	_, err = readAll(bytes.NewReader(b), int64(len(b)))
	return err
}

// Nanoseconds, years beyond 2038, and access control lists, which mke2fs does
// not copy.
func TestFields(t *testing.T) {
	testenv.Need(t, "mke2fs", "debugfs")
	const id = "01234567-89ab-cdef-0123-456789abcdef"
	image := tiny(t, "-t", "ext4", "-I", "256", "-L", "sixteen letters.", "-U", id)
	debug(t, image, "set_inode_field a/file mtime 0x80000010", "set_inode_field a/file mtime_extra 0x1d", // 7 ns, epoch 1
		"ea_set a/file user.x yes")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	fs, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if fs.Label != "sixteen letters." || fs.UUID != id {
		t.Errorf("label %q, UUID %s", fs.Label, fs.UUID)
	}
	err = fs.Walk(func(e *tree.Entry, _ *Content) error {
		if e.Path == "a/file" && (!e.ModTime.Equal(time.Unix(1<<32+16-1<<31, 7)) || !maps.Equal(e.Xattrs, map[string]string{"user.x": "yes"})) {
			t.Errorf("time %v, attributes %q", e.ModTime, e.Xattrs)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	// setfacl -m u:5:r on a file of mode 0644, as the disk has it.
	disk := "\x01\x00\x00\x00" + "\x01\x00\x06\x00" + "\x02\x00\x04\x00\x05\x00\x00\x00" + "\x04\x00\x04\x00" + "\x10\x00\x04\x00" + "\x20\x00\x04\x00"
	const none = "\xff\xff\xff\xff"
	want := "\x02\x00\x00\x00" + "\x01\x00\x06\x00" + none + "\x02\x00\x04\x00\x05\x00\x00\x00" + "\x04\x00\x04\x00" + none + "\x10\x00\x04\x00" + none + "\x20\x00\x04\x00" + none
	if got, err := acl(disk); got != want || err != nil {
		t.Errorf("acl: %q, %v", got, err)
	}
}

// What is damaged or made to harm is an error that says why.
func TestRefusals(t *testing.T) {
	testenv.Need(t, "mke2fs", "debugfs")
	for name, c := range map[string]struct {
		commands []string // none: the image is changed below
		want     string
	}{
		"circle":            {[]string{"link a a/b/up", "set_inode_field a links_count 9"}, "two names"},
		"root in itself":    {[]string{"link <2> a/root"}, "two names"},
		"slash in a name":   {nil, ""},
		"no such inode":     {nil, ""},
		"journal":           {[]string{"set_super_value feature_incompat 0x46"}, "was not unmounted"},
		"unknown feature":   {[]string{"set_super_value feature_incompat 0x80000042"}, "feature 0x80000000 is not supported"},
		"named feature":     {[]string{"set_super_value feature_incompat 0x43"}, "feature compression is not supported"},
		"encrypted":         {[]string{"set_inode_field a/file flags 0x80800"}, "encrypted"},
		"kind":              {[]string{"set_inode_field a/file mode 0170644"}, "unknown kind"},
		"block outside":     {[]string{"set_inode_field a/file flags 0", "set_inode_field a/file block[0] 5000000"}, "outside of the file system"},
		"block of blocks":   {[]string{"set_inode_field a/file flags 0", "set_inode_field a/file block[12] 5000000"}, ""},
		"huge directory":    {[]string{"set_inode_field a size 0x70000000"}, "more than"},
		"foreign attribute": {[]string{"set_inode_field a/file file_acl 3"}, "does not hold any"},
		"groups":            {nil, ""},
	} {
		image := tiny(t, "-t", "ext4", "-O", "^64bit,^metadata_csum,^flex_bg")
		if len(c.commands) == 0 {
			b, _ := os.ReadFile(image)
			entry := bytes.Index(b, []byte("file")) - 8
			switch name {
			case "groups":
				copy(b[1024+0x28:], "\x00\x00\x00\x00")
				c.want = "0 inodes in a group"
			case "slash in a name":
				copy(b[entry+8:], "a/bc")
				c.want = `named "a/bc"`
			case "no such inode":
				le.PutUint32(b[entry:], 4000)
				c.want = "none of this number"
			}
			if err := os.WriteFile(image, b, 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			debug(t, image, c.commands...)
		}
		if name == "block of blocks" {
			debug(t, image, "set_inode_field a/file size 50000")
			c.want = "outside of the file system"
		}
		if err := readFile(t, image); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	image := tiny(t)
	b, _ := os.ReadFile(image)
	if _, err := Open(bytes.NewReader(b), int64(len(b))-1024); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("cut off: %v", err)
	}
	if _, err := Open(bytes.NewReader(make([]byte, 1<<20)), 1<<20); !errors.Is(err, ErrNone) {
		t.Errorf("zeros: %v", err)
	}
}

// Many names for one file's blocks do not make more data than there is.
func TestNoBomb(t *testing.T) {
	testenv.Need(t, "mke2fs", "debugfs")
	image := tiny(t, "-t", "ext2", "-O", "^dir_index")
	var commands []string
	for i := range 100 {
		commands = append(commands, fmt.Sprintf("link a/file a/b/%d", i))
	}
	debug(t, image, commands...)
	debug(t, image, "set_inode_field a/file links_count 1")
	if err := readFile(t, image); err == nil || !strings.Contains(err.Error(), "more blocks than the file system") {
		t.Errorf("got %v", err)
	}
}

// FuzzRead changes single bytes of small file systems of several kinds.
func FuzzRead(f *testing.F) {
	var images [][]byte
	if _, err := exec.LookPath("mke2fs"); err != nil {
		f.Skip("mke2fs is not installed: run ci/install-deps.sh")
	}
	for _, kind := range []string{"ext2", "ext4", "inline"} {
		dir := f.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), bytes.Repeat([]byte("x"), 20000), 0o644); err != nil {
			f.Fatal(err)
		}
		if err := os.Symlink(strings.Repeat("z", 70), filepath.Join(dir, "link")); err != nil {
			f.Fatal(err)
		}
		args := []string{"-q", "-F", "-d", dir, "-b", "1024", "-N", "16", "-t", kind}
		if kind == "inline" {
			args = []string{"-q", "-F", "-d", dir, "-b", "1024", "-N", "16", "-t", "ext4", "-O", "inline_data,^has_journal", "-I", "256"}
		}
		image := filepath.Join(f.TempDir(), "fs")
		if kind == "ext4" {
			args = append(args, "-O", "^has_journal")
		}
		if out, err := exec.Command("mke2fs", append(args, image, "128K")...).CombinedOutput(); err != nil {
			f.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	f.Add(uint8(0), []byte{0, 4, 0x18, 3})
	f.Add(uint8(1), []byte{0, 40, 1, 200, 0, 41, 7, 9})
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		b := slices.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] { // three bytes of position, one of content
			at := int(changes[0])<<16 | int(changes[1])<<8 | int(changes[2])
			b[at%len(b)] = changes[3]
		}
		_, _ = readSome(bytes.NewReader(b), int64(len(b)), 32<<10)
	})
}
