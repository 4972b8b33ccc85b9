package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	"goldsmith/internal/secureboot"
	"goldsmith/internal/trust"
)

// keyFlags are the flags of 'imgbuild keys'.
type keyFlags struct {
	p256 bool
}

// keyKind is one kind of keys that imgbuild makes.
type keyKind struct {
	name string
	// make makes the keys: what each file holds, and what is printed of them.
	make func(f keyFlags) (files []keyFile, printed string, err error)
}

// keyFile is a file of a new key. Only private ones are kept from others.
type keyFile struct {
	name    string
	private bool
	content []byte
}

var keyKinds = []keyKind{{"release", releaseKey}, {"secure-boot", secureBootKeys}}

func keysCommand() *command.Command {
	var f keyFlags
	return &command.Command{
		Name:  "keys",
		Args:  "release|secure-boot DIRECTORY",
		Short: "make the keys that images are signed with",
		Long: `
release makes a key that releases are signed with: release.key, which nobody
else may read, and release.pub, which belongs into images as
/usr/share/goldsmith/trust/NAME.pub. The key's ID is printed.

secure-boot makes the keys that UEFI firmware trusts: db.key and db.crt, which
image definitions name to sign what firmware starts; KEK and PK, with which a
machine's keys are changed later; and NAME.auth of each, which systemd-boot
enrols into firmware without keys. The fingerprint of db.crt is printed.

No file is overwritten: make another directory for another key.`,
		Example: `imgbuild keys release keys
imgbuild keys secure-boot keys/secure-boot
imgbuild sign oci:.goldsmith/oci:candidate --key keys/release.key`,
		Flags: func(fs *flag.FlagSet) {
			fs.BoolVar(&f.p256, "p256", false, "release: an ECDSA key on P-256, not Ed25519")
		},
		Run: func(_ context.Context, io command.IO, args []string) error {
			if len(args) != 2 {
				return command.Usage("keys needs a kind and a directory", "imgbuild keys release keys")
			}
			printed, err := makeKeys(args[0], args[1], f)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(io.Stdout, printed)
			return err
		},
	}
}

func makeKeys(kind, dir string, f keyFlags) (string, error) {
	var names []string
	for _, k := range keyKinds {
		if names = append(names, k.name); k.name != kind {
			continue
		}
		files, printed, err := k.make(f)
		if err != nil {
			return "", err
		}
		return printed, writeKeys(dir, files)
	}
	return "", command.Usage(fmt.Sprintf("no kind of keys is called %q", kind), "there is "+strings.Join(names, ", "))
}

func releaseKey(f keyFlags) ([]keyFile, string, error) {
	key, err := trust.NewKey(f.p256)
	if err != nil {
		return nil, "", err
	}
	private, err := key.PEM()
	return []keyFile{{"release.key", true, private}, {"release.pub", false, key.Public.PEM()}}, key.Public.ID, err
}

func secureBootKeys(keyFlags) ([]keyFile, string, error) {
	made, err := secureboot.MakeKeys(time.Now())
	if err != nil {
		return nil, "", err
	}
	var files []keyFile
	for _, name := range slices.Sorted(maps.Keys(made)) {
		files = append(files, keyFile{name, filepath.Ext(name) == ".key", made[name]})
	}
	s, err := secureboot.NewSigner(made[secureboot.DB+".key"], made[secureboot.DB+".crt"])
	if err != nil {
		return nil, "", err
	}
	return files, s.Fingerprint(), nil
}

func writeKeys(dir string, files []keyFile) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, k := range files {
		name := filepath.Join(dir, k.name)
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return command.BadInput(fmt.Errorf("%s: it is there already", name), "name another directory; what a lost key signed cannot be signed again")
		}
	}
	for _, k := range files {
		mode := os.FileMode(0o644)
		if k.private {
			mode = 0o600
		}
		if err := atomicfile.Write(filepath.Join(dir, k.name), k.content, mode); err != nil {
			return err
		}
	}
	return nil
}
