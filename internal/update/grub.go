package update

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/bootentry"
	"goldsmith/internal/uki"
)

// placeBIOS unpacks the kernel image for GRUB, and has GRUB try it.
func (e *esp) placeBIOS(id string) error {
	image, err := os.ReadFile(e.path(bootentry.Dir, stagingName))
	if err != nil {
		return err
	}
	parts, err := uki.Parse(image)
	if err != nil {
		return err
	}
	dir := e.path(bootentry.BIOSDir, stagingName)
	cut()
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range biosFiles(id, parts) {
		if err := writeSynced(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	cut()
	if err := os.Rename(dir, e.path(bootentry.BIOSDir, id)); err != nil {
		return err
	}
	if err := e.sync(); err != nil {
		return err
	}
	return e.setEnv(func(env bootentry.Env) {
		env[bootentry.EnvTry], env[bootentry.EnvLeft] = id, strconv.Itoa(bootentry.Tries)
	})
}

// biosFiles are a version's files for GRUB.
func biosFiles(id string, parts uki.Image) map[string][]byte {
	return map[string][]byte{"linux": parts.Linux, "initrd": parts.Initrd,
		"boot.cfg": bootentry.BootConfig(id, parts.Cmdline)}
}

// inspectBIOS compares the files for GRUB with the kernel image. Of a boot.cfg
// that may be another's only the root hash is looked for.
func (e *esp) inspectBIOS(s *Slot, others bool) string {
	if !e.bios {
		return ""
	}
	parts, err := e.parse(s.ID())
	if err != nil {
		return err.Error()
	}
	files := biosFiles(s.ID(), parts)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		got, err := os.ReadFile(e.path(bootentry.BIOSDir, s.ID(), name))
		same := bytes.Equal(got, files[name]) ||
			others && name == "boot.cfg" && bytes.Contains(got, []byte("roothash="+s.RootHash))
		if err != nil || !same {
			return fmt.Sprintf("its file %s/%s/%s on the EFI partition is damaged", bootentry.BIOSDir, s.ID(), name)
		}
	}
	return ""
}

// writeSynced writes a file, and reads it back from the disk.
func writeSynced(name string, content []byte) (err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	dropped(f, 0, 0)
	got := make([]byte, len(content))
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, content) {
		return fmt.Errorf("EFI partition: %s reads back as something else: the disk is failing", filepath.Base(name))
	}
	return nil
}

// env reads GRUB's environment block; nil on a disk without GRUB.
func (e *esp) env() (bootentry.Env, error) {
	if !e.bios {
		return nil, nil
	}
	b, err := os.ReadFile(e.path(bootentry.EnvFile))
	if err != nil {
		return nil, err
	}
	return bootentry.ParseEnv(b)
}

// setEnv changes GRUB's environment block where it lies: all variables are in
// one sector, which a disk writes whole or not at all. A block that cannot be
// read is made anew.
func (e *esp) setEnv(change func(bootentry.Env)) error {
	if !e.bios {
		return nil
	}
	env, err := e.env()
	if err != nil {
		env = bootentry.Env{}
	}
	change(env)
	b, err := env.Bytes()
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(e.path(bootentry.EnvFile)); err != nil || len(old) != len(b) {
		// GRUB cannot write a file that is too short, nor can we in one sector.
		cut()
		return atomicfile.Write(e.path(bootentry.EnvFile), b, 0o644)
	} else if bytes.Equal(old, b) {
		return nil
	}
	f, err := os.OpenFile(e.path(bootentry.EnvFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	cut()
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Sync(), f.Close())
}
