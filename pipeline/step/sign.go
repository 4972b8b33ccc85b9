package step

import (
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
)

// sign signs an image as a release, as 'imgbuild sign' does: machines take no
// update without. Once more with the same key changes nothing.
func (s *Store) sign(digest, file string) error {
	k, err := trust.ReadPrivate(file)
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
