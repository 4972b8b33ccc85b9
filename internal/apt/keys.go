package apt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
)

// DefaultKeyrings returns the keyrings of archives that this machine trusts:
// those of distributions in /usr/share/keyrings, and apt's own.
func DefaultKeyrings() []string {
	var out []string
	for _, pattern := range []string{
		"/usr/share/keyrings/*-archive-keyring.gpg", "/usr/share/keyrings/*-archive-keyring.pgp",
		"/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d/*.gpg", "/etc/apt/trusted.gpg.d/*.asc",
	} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	return out
}

const keyRemedy = "install the archive's keyring (debian-archive-keyring, ubuntu-keyring), " +
	"name it with [signed-by=/path], or use [trusted=yes]"

// verify checks the signature of a Release file with gpgv and returns the text
// that is signed, which of an InRelease file is not all of it. detached is the
// file of the signature; empty means that release is an InRelease file.
func verify(ctx context.Context, release, detached string, keyrings []string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "goldsmith-keys-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	args := []string{"gpgv", "--status-fd", "1", "--homedir", dir}
	for i, k := range keyrings {
		file, err := binaryKeyring(k, filepath.Join(dir, fmt.Sprintf("%d.gpg", i)))
		if err != nil {
			return nil, err
		}
		args = append(args, "--keyring", file)
	}
	if len(keyrings) == 0 {
		return nil, command.Missing(errors.New("no keyring of an archive is installed"), keyRemedy)
	}
	text := release
	if detached != "" {
		args = append(args, detached, release)
	} else {
		text = filepath.Join(dir, "Release")
		args = append(args, "--output", text, release)
	}
	status, err := command.Exec{Args: args, Remedy: "apt-get install gpgv"}.Output(ctx)
	if _, ended := errors.AsType[*command.ExitError](err); err != nil && !ended {
		return nil, err
	}
	// One good signature suffices: gpgv fails when one of several is by a key
	// that is not there, which is usual while an archive changes its key.
	if why := judge(status); why != "" {
		return nil, command.Hint(fmt.Errorf("the signature is not good: %s", why), keyRemedy)
	}
	return os.ReadFile(text)
}

// judge reads gpgv's status lines (doc/DETAILS of GnuPG): "" or what is wrong.
func judge(status []byte) string {
	good, why := false, "there is none"
	for line := range strings.Lines(string(status)) {
		w := strings.Fields(line)
		if len(w) < 3 || w[0] != "[GNUPG:]" {
			continue
		}
		switch w[1] {
		case "GOODSIG":
			good = true
		case "BADSIG":
			return "it does not match the file"
		case "NO_PUBKEY":
			why = "no keyring has the key " + w[2]
		case "EXPKEYSIG":
			why = "the key " + w[2] + " has expired"
		case "REVKEYSIG":
			why = "the key " + w[2] + " is revoked"
		case "EXPSIG":
			why = "it has expired"
		}
	}
	if good {
		return ""
	}
	return why
}

// binaryKeyring returns a keyring as gpgv wants it: one in ASCII armour is
// written to the file out without it.
func binaryKeyring(file, out string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", command.BadInput(fmt.Errorf("keyring: %w", err), "name a keyring that is there")
	}
	if !bytes.Contains(b, []byte("-----BEGIN PGP PUBLIC KEY BLOCK-----")) {
		return file, nil
	}
	var keys []byte
	for block := range strings.SplitSeq(string(b), "-----BEGIN PGP PUBLIC KEY BLOCK-----") {
		body, _, ok := strings.Cut(block, "-----END PGP")
		if !ok {
			continue
		}
		_, body, _ = strings.Cut(strings.ReplaceAll(body, "\r", ""), "\n\n") // behind the armour's headers
		body, _, _ = strings.Cut(body, "\n=")                                // before its check sum
		key, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(body, "\n", ""))
		if err != nil {
			return "", command.BadInput(fmt.Errorf("keyring %s: %w", file, err), "write it again: gpg --export --armor")
		}
		keys = append(keys, key...)
	}
	return out, os.WriteFile(out, keys, 0o600)
}
