package step

import (
	"fmt"
	"os"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
)

// readKey reads a private key for signatures.
func readKey(file string) (*trust.PrivateKey, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, command.BadInput(err, "'imgbuild keys release' makes keys")
	}
	k, err := trust.ParsePrivate(text)
	if err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: %w", file, err), "the private key ends in .key, and has no passphrase")
	}
	return k, nil
}

// sign signs an image as a release, as 'imgbuild sign' does: machines take no
// update without. Once more with the same key changes nothing.
func (s *Store) sign(digest, file string) error {
	k, err := readKey(file)
	if err != nil {
		return err
	}
	img, err := s.Images.Image(digest)
	if err != nil {
		return err
	}
	envelope, err := trust.Sign(digest, trust.Predicate{Name: img.Name, Version: img.Version, Arch: img.Arch}, k)
	if err != nil {
		return err
	}
	_, err = s.Images.Attach(digest, registry.SignatureType, nil,
		registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: envelope})
	return err
}
