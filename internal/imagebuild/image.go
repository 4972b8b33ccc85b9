package imagebuild

import (
	"goldsmith/internal/registry"
	"goldsmith/internal/release"
)

// Image is what the layout is told of the raw disk that the build wrote. A disk
// that elements laid out has neither root nor kernel image: its Layout is nil.
func (m *Manifest) Image(raw *Output) registry.Image {
	img := registry.Image{
		Name: m.Name, Version: m.Version, Arch: m.Arch, Elements: m.Elements, Size: raw.Size, SHA256: raw.SHA256,
	}
	if m.Disk != nil {
		var r release.Release
		m.Disk.Describe(&r)
		img.Root, img.UKI = r.Root, r.UKI
	}
	return img
}
