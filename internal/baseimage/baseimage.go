// Package baseimage turns an image that somebody else has made into a
// directory that further things are installed into: the root file system of a
// disk (raw or qcow2), an archive, or a container image.
//
// What is asked for is verified before anything of it is written, and the
// directory appears by rename when it is complete. Images are read here, not
// mounted; nothing in one of them leads out of the directory: a symbolic link
// is only ever followed inside of it, as if it were the root.
//
// Of a disk, the root is read, which must be ext2, ext3 or ext4, and such other
// partitions as its fstab names by label or UUID.
package baseimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
)

// Options say how an image is found and what it must be. The zero value is
// usable.
type Options struct {
	Cache   string // directory for downloads; empty means the user's own
	Offline bool   // ask no server: what is needed must be in the cache
	Arch    string // of container images for several; empty means amd64
	// Partition is the number of the one partition of a disk that is read; 0
	// finds the root, and reads what its fstab mounts, too.
	Partition int

	SHA256    string // of the image, in hexadecimal; empty means unknown
	Sums      string // file or URL of checksums, as sha256sum and sha512sum write them
	Signature string // file or URL of a detached signature: of Sums, or without it of the image
	Keyring   string // file of the public keys one of which must have signed, for gpgv(1)

	Info func(format string, args ...any) // told what goes on; nil means nobody is
}

func (o *Options) info(format string, args ...any) {
	if o.Info != nil {
		o.Info(format, args...)
	}
}

// Extract writes the files of an image to the directory dir, which must be
// empty or not there; its parent must be. It needs the superuser, who alone
// can give files their owners. Until it is complete, all lies in a directory
// .NAME.goldsmith-NUMBER beside dir; what earlier calls for dir left there, as
// they were killed, is removed first.
//
// image is a file's path or its http, https or file URL, whose content tells
// what it is: a qcow2 image, a raw disk, or an archive (tar), the latter two
// also compressed by gzip, xz, zstd or bzip2. Otherwise it names a container
// image: oci:DIRECTORY:TAG, oci-archive:FILE:TAG (the tag may be left out
// where there is one image only), or HOST/REPOSITORY:TAG in a registry.
func Extract(ctx context.Context, image, dir string, o Options) (err error) {
	if os.Geteuid() != 0 {
		return command.Missing(errors.New("files of an image have owners of their own"), "run it as root")
	}
	if err := checkDir(dir); err != nil {
		return err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := sweep(dir); err != nil {
		o.info("left from another extraction: %v", err)
	}
	s, err := newScratch(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	x := &extraction{Options: o, image: image, tmp: s.dir, root: filepath.Join(s.dir, "root")}
	if err := os.Mkdir(x.root, 0o755); err != nil {
		return err
	}
	if err := x.extract(ctx); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if err := unix.Rename(x.root, dir); err != nil { // os.Rename replaces no empty directory
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

func checkDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > 0 {
		return command.BadInput(fmt.Errorf("%s: the directory is not empty", dir), "name one that is not there yet")
	}
	if err != nil && !os.IsNotExist(err) {
		return command.BadInput(err, "name a directory that is not there yet")
	}
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		return command.BadInput(err, "make the directory above it first")
	}
	return nil
}

// extraction is one call of Extract.
type extraction struct {
	Options
	image string
	tmp   string // scratch directory
	root  string // where the files go, in tmp
}

func (x *extraction) extract(ctx context.Context) error {
	if rest, ok := strings.CutPrefix(x.image, "oci:"); ok {
		if err := x.noChecksums(); err != nil {
			return err
		}
		return x.layout(ctx, rest)
	}
	name, isArchive := strings.CutPrefix(x.image, "oci-archive:")
	tag := ""
	if isArchive {
		name, tag = cutTag(name)
	}
	if !isArchive && !isFile(name) {
		if err := x.noChecksums(); err != nil {
			return err
		}
		return x.pull(ctx)
	}
	f, err := x.open(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if isArchive {
		return x.ociArchive(ctx, f, tag)
	}
	return x.file(ctx, f)
}

// isFile tells the path or URL of a file from a name in a registry.
func isFile(name string) bool {
	if isURL(name) || strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") || !strings.Contains(name, "/") {
		return true
	}
	_, err := os.Stat(name)
	return err == nil
}

func isURL(name string) bool {
	for _, scheme := range []string{"http://", "https://", "file://"} {
		if strings.HasPrefix(name, scheme) {
			return true
		}
	}
	return false
}

// cutTag takes the tag off FILE:TAG.
func cutTag(name string) (file, tag string) {
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") && i > 0 {
		return name[:i], name[i+1:]
	}
	return name, ""
}

// noChecksums refuses what says nothing about a container image, which has
// digests of its own.
func (x *extraction) noChecksums() error {
	if x.SHA256 == "" && x.Sums == "" && x.Signature == "" {
		return nil
	}
	return command.Usage("checksums and signatures are of files",
		"name a container image by its digest: HOST/REPOSITORY@sha256:…")
}
