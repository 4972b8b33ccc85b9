package trust

import (
	"fmt"
	"os"

	"goldsmith/internal/command"
)

// ReadPrivate reads a private key from a file that a person named. The error
// says what such a file is.
func ReadPrivate(file string) (*PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, command.BadInput(err, "'imgbuild keys release' makes keys")
	}
	k, err := ParsePrivate(text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", file, err), "the private key ends in .key, and has no passphrase")
	}
	return k, nil
}

// ReadPolicy reads a policy from a directory that a person named, as [Load]
// does, or makes one of the public key in a file where the directory is empty.
func ReadPolicy(key, dir string) (*Policy, error) {
	if dir != "" {
		return Load(dir)
	}
	text, err := os.ReadFile(key)
	if err != nil {
		return nil, command.BadInput(err, "'imgbuild keys release' makes keys")
	}
	k, err := ParsePublic(text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", key, err), "the public key ends in .pub")
	}
	return NewPolicy(k), nil
}
