package tests

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/disk/gpt"
	"goldsmith/internal/testenv"
	"goldsmith/testbed"
)

// esp copies the EFI partition's files, as boot loaders see them: nobody
// repairs a FAT before they read it. A file that cannot be read to its end, as
// one that is being written when the power goes, is there and not whole.
func (l *lab) esp() (dir string, err error) {
	if dir, err = os.MkdirTemp(l.r.dir, "esp"); err != nil {
		return "", err
	}
	at := l.raw + "@@" + fmt.Sprint(partition(l.r.disk, "esp").Start)
	list, err := exec.Command("mdir", "-/", "-b", "-i", at, "::/").Output()
	if err != nil {
		return dir, fmt.Errorf("EFI partition: %w", err)
	}
	for path := range strings.Lines(string(list)) {
		path = strings.TrimSuffix(path, "\n")
		to := filepath.Join(dir, filepath.FromSlash(strings.TrimPrefix(path, "::/")))
		if strings.HasSuffix(path, "/") {
			err = os.MkdirAll(to, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(to), 0o700); err == nil {
			if out, unread := exec.Command("mcopy", "-n", "-i", at, path, to).CombinedOutput(); unread != nil {
				err = os.WriteFile(to, fmt.Appendf(nil, "cannot be read: %s", out), 0o600)
			}
		}
		if err != nil {
			return dir, err
		}
	}
	return dir, nil
}

// entries are the kernel images that systemd-boot finds.
func entries(esp string) ([]bootentry.Entry, error) {
	files, err := os.ReadDir(filepath.Join(esp, bootentry.Dir))
	if err != nil {
		return nil, err
	}
	var list []bootentry.Entry
	for _, f := range files {
		if e, ok := bootentry.ParseFile(f.Name()); ok {
			list = append(list, e)
		}
	}
	return list, nil
}

// kernels are the names of a version's kernel images on the EFI partition: one,
// or two while it is renamed.
func kernels(esp, id string) ([]string, error) {
	list, err := entries(esp)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		if e.ID == id {
			names = append(names, filepath.Join(bootentry.Dir, e.File()))
		}
	}
	if len(names) == 0 {
		return nil, errors.New("its kernel image is not there")
	}
	return names, nil
}

// choose says what the boot loader starts.
func (l *lab) choose(esp string) (string, error) {
	if l.firmware == testbed.BIOS {
		b, err := os.ReadFile(filepath.Join(esp, bootentry.EnvFile))
		if err != nil {
			return "", err
		}
		env, err := bootentry.ParseEnv(b)
		if err != nil {
			return "", err
		}
		id, _ := env.Choice()
		return id, nil
	}
	list, err := entries(esp)
	if err != nil {
		return "", err
	}
	first, ok := bootentry.Choice(list)
	if !ok {
		return "", errors.New("systemd-boot finds nothing to start")
	}
	return first.ID, nil
}

// whole tells whether a version's files and root are all there.
func (l *lab) whole(table *gpt.Table, esp, id string) error {
	release, known := l.r.published[id]
	if !known {
		return errors.New("nobody knows it")
	}
	var files []string
	if l.firmware == testbed.BIOS {
		files = []string{"bios/" + id + "/linux", "bios/" + id + "/initrd", "bios/" + id + "/boot.cfg"}
	} else {
		var err error
		if files, err = kernels(esp, id); err != nil {
			return err
		}
	}
	for _, name := range files {
		sum, err := fileSum(filepath.Join(esp, name))
		want := release.files[name]
		if strings.HasSuffix(name, ".efi") {
			want = release.layout.Boot.UKISHA256
		}
		if err != nil || sum != want {
			return fmt.Errorf("%s has SHA-256 %s, want %s (%w)", name, sum, want, err)
		}
	}
	for _, slot := range []string{"a", "b"} {
		for _, p := range table.Partitions {
			if p.Name == "root-"+slot && p.GUID == partition(release.layout, "root-a").GUID {
				return l.verify(slot, release.layout)
			}
		}
	}
	return errors.New("no slot has its root")
}

// fsckEvery is how many crash images there are for each whose EFI partition is
// checked as a file system, too.
const fsckEvery = 20

// checkFAT has fsck.fat look at the EFI partition.
func (l *lab) checkFAT() error {
	p := partition(l.r.disk, "esp")
	f, err := os.CreateTemp(l.r.dir, "fat")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, io.NewSectionReader(l.file, p.Start, p.Size))
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return crossLinked(f.Name())
}

// crossLinked is an error when two files of a FAT have a cluster in common:
// writing the one would change the other. What else a power cut leaves is
// allowed: the dirty bit, another count of free clusters, clusters of no file.
func crossLinked(image string) error {
	out, err := exec.Command("fsck.fat", "-n", image).CombinedOutput()
	if ee, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || ee.ExitCode() != 1) {
		return fmt.Errorf("fsck.fat: %w: %s", err, out)
	}
	if strings.Contains(string(out), "share clusters") {
		return fmt.Errorf("EFI partition: files share clusters: %s", out)
	}
	return nil
}

func fileSum(name string) (string, error) {
	b, err := os.ReadFile(name)
	return fmt.Sprintf("%x", sha256.Sum256(b)), err
}

// A version's kernel images are its own, not those of one whose name begins
// with its name.
func TestCrashLabKernels(t *testing.T) {
	esp := t.TempDir()
	if err := os.MkdirAll(filepath.Join(esp, bootentry.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"demo_1+2-1.efi", "demo_10.efi", "demo_1.5.efi", "other"} {
		if err := os.WriteFile(filepath.Join(esp, bootentry.Dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := kernels(esp, "demo_1")
	if want := []string{"EFI/Linux/demo_1+2-1.efi"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if got, err := kernels(esp, "demo"); err == nil {
		t.Errorf("got %q", got)
	}
}

// fsck.fat's word for clusters that two files have is what the lab looks for;
// what every power cut leaves is not.
func TestCrashLabFAT(t *testing.T) {
	testenv.Need(t, "mkfs.fat", "mcopy", "fsck.fat")
	dir := t.TempDir()
	image := filepath.Join(dir, "fat")
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool(t, dir, "mkfs.fat", "-C", "-F", "16", "-R", "1", "-f", "2", image, "16384")
	tool(t, dir, "mcopy", "-i", image, "one", "two", "::/")
	if err := crossLinked(image); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	b[0x25] |= 1 // dirty
	change := func() error {
		t.Helper()
		if err := os.WriteFile(image, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return crossLinked(image)
	}
	if err := change(); err != nil {
		t.Errorf("a dirty bit: %v", err)
	}
	one, two := strings.Index(string(b), "ONE        "), strings.Index(string(b), "TWO        ")
	if one < 0 || two < 0 {
		t.Fatalf("entries at %d and %d", one, two)
	}
	copy(b[two+26:two+28], b[one+26:one+28]) // its first cluster
	if err := change(); err == nil || !strings.Contains(err.Error(), "share clusters") {
		t.Errorf("one cluster of two files: %v", err)
	}
}
