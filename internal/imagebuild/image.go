package imagebuild

import "goldsmith/internal/registry"

// Image is what the layout is told of the raw disk that the build wrote.
func (m *Manifest) Image(raw *Output) registry.Image {
	return registry.Image{
		Name: m.Name, Version: m.Version, Arch: m.Arch, Elements: m.Elements, Size: raw.Size, SHA256: raw.SHA256,
	}
}
