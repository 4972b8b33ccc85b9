package baseimage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/download"
)

// maxSums bounds a file of checksums, and a signature, in bytes.
const maxSums = 16 << 20

// open returns the image's file, downloaded where need be, and verified.
func (x *extraction) open(ctx context.Context, name string) (*os.File, error) {
	if (x.Signature == "") != (x.Keyring == "") {
		return nil, command.Usage("a signature and a keyring belong together", "give both of them, or neither")
	}
	local, err := x.fetch(ctx, name)
	if err != nil {
		return nil, err
	}
	f, err := openFile(local, local)
	if err != nil {
		return nil, err
	}
	if err := x.verify(ctx, f, path.Base(strings.TrimPrefix(name, "file://"))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// openFile opens a file, or a disk, that errors call name. To open a pipe or a
// terminal could take until somebody else does something.
func openFile(file, name string) (*os.File, error) {
	fi, err := os.Stat(file)
	if err == nil && !fi.Mode().IsRegular() && fi.Mode().Type() != os.ModeDevice { // of blocks
		hint := ""
		if fi.Mode()&os.ModeNamedPipe != 0 {
			hint = "save what comes out of the pipe to a file, and name that"
		}
		return nil, command.BadInput(fmt.Errorf("%s: neither a file nor a disk", name), hint)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(file)
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return nil, command.BadInput(fmt.Errorf("%s: %w", name, pe.Err), "")
	}
	return f, err
}

// fetch returns the path of a local copy of a file.
func (x *extraction) fetch(ctx context.Context, name string) (string, error) {
	if !isURL(name) {
		return name, nil
	}
	if rest, ok := strings.CutPrefix(name, "file://"); ok {
		return rest, nil
	}
	if x.Cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return "", command.Missing(fmt.Errorf("no cache directory: %w", err), "name one with --cache")
		}
		x.Cache = filepath.Join(dir, "goldsmith")
	}
	sum := sha256.Sum256([]byte(name))
	file, _, _ := strings.Cut(path.Base(name), "?")
	dest := filepath.Join(x.Cache, "images", hex.EncodeToString(sum[:8])+"-"+file)
	if x.Offline {
		if _, err := os.Stat(dest); err != nil {
			return "", command.Missing(fmt.Errorf("%s: not in the cache", redacted(name)), "run it once without --offline")
		}
		return dest, nil
	}
	g := download.Getter{Retrying: func(err error) { x.info("%v; trying again", err) }}
	out, err := g.Get(ctx, name, dest)
	if err != nil {
		return "", err
	}
	if out == download.Unchanged {
		x.info("%s is in the cache", file)
	}
	return dest, nil
}

// redacted is a URL without what may be secret in it.
func redacted(name string) string {
	scheme, rest, _ := strings.Cut(name, "://")
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		rest = rest[i+1:]
	}
	rest, _, _ = strings.Cut(rest, "?")
	return scheme + "://" + rest
}

// verify holds the image to all that is known of it. name is what lists of
// checksums call it.
func (x *extraction) verify(ctx context.Context, f *os.File, name string) error {
	sums := map[string]hash.Hash{} // what is wanted, in hexadecimal
	if x.SHA256 != "" {
		if b, err := hex.DecodeString(x.SHA256); err != nil || len(b) != sha256.Size {
			return command.Usage(fmt.Sprintf("%q is not a SHA-256 in hexadecimal", x.SHA256), "")
		}
		sums[strings.ToLower(x.SHA256)] = sha256.New()
	}
	signed := f.Name()
	if x.Sums != "" {
		local, err := x.fetch(ctx, x.Sums)
		if err != nil {
			return err
		}
		signed = local
	}
	// The signature comes first: unsigned checksums are not worth reading.
	if x.Signature != "" {
		if err := x.checkSignature(ctx, signed); err != nil {
			return err
		}
	}
	if x.Sums != "" {
		want, err := readSums(signed, name)
		if err != nil {
			return err
		}
		for _, w := range want {
			if len(w) == 2*sha512.Size {
				sums[w] = sha512.New()
			} else {
				sums[w] = sha256.New()
			}
		}
	}
	return compare(ctx, f, name, sums)
}

func compare(ctx context.Context, f *os.File, name string, sums map[string]hash.Hash) error {
	if len(sums) == 0 {
		return nil
	}
	var all []io.Writer
	for _, h := range sums {
		all = append(all, h)
	}
	if _, err := io.CopyBuffer(io.MultiWriter(all...), command.Reader(ctx, f), make([]byte, 1<<20)); err != nil {
		return err
	}
	for want, h := range sums {
		if got := hex.EncodeToString(h.Sum(nil)); got != want {
			return fmt.Errorf("%s: its checksum is %s, and %s was expected", name, got, want)
		}
	}
	return nil
}

// readSums returns the checksums that a list has for a name: lines "HEX  NAME"
// or "HEX *NAME", as sha256sum(1) writes them, or "SHA256 (NAME) = HEX".
// Directories before the name do not count. A name listed twice must have both
// checksums.
func readSums(file, name string) ([]string, error) {
	b, err := readLimited(file, maxSums)
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		sum, of, ok := strings.Cut(line, " ")
		of = strings.TrimLeft(of, " *")
		if head, tail, bsd := strings.Cut(line, ") = "); bsd {
			_, of, ok = strings.Cut(head, " (")
			sum = tail
		}
		b, err := hex.DecodeString(sum)
		if ok && err == nil && (len(b) == sha256.Size || len(b) == sha512.Size) && path.Base(of) == name {
			found = append(found, strings.ToLower(sum))
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: no SHA-256 or SHA-512 of %s", file, name)
	}
	return found, nil
}

func readLimited(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, command.BadInput(err, "")
	}
	defer f.Close()
	return readAtMost(f, file, limit)
}

// readAtMost reads a file that errors call name.
func readAtMost(f *os.File, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return b, err
}

// checkSignature lets gpgv say whether a key of the keyring has signed a file.
func (x *extraction) checkSignature(ctx context.Context, file string) error {
	signature, err := x.fetch(ctx, x.Signature)
	if err != nil {
		return err
	}
	keys, err := readLimited(x.Keyring, maxSums)
	if err != nil {
		return err
	}
	if bytes.HasPrefix(keys, []byte("-----BEGIN")) {
		return command.BadInput(fmt.Errorf("%s: the keyring is in its text form", x.Keyring),
			"turn it into the binary one: gpg --dearmor")
	}
	paths := []string{x.Keyring, signature, file}
	for i, p := range paths {
		if paths[i], err = filepath.Abs(p); err != nil { // gpgv looks for other names in its own directory
			return err
		}
	}
	home := filepath.Join(x.tmp, "gnupg") // gpgv must not look at the user's own keys
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	err = command.Exec{
		Args:   []string{"gpgv", "--homedir", home, "--keyring", paths[0], paths[1], paths[2]},
		Remedy: "install gpgv",
	}.Run(ctx)
	if _, ran := errors.AsType[*command.ExitError](err); ran {
		return fmt.Errorf("%s: no good signature by a key of %s: %w", filepath.Base(file), x.Keyring, err)
	}
	return err
}
