package uki

import (
	"bytes"
	"debug/pe"
	"fmt"
	"strings"
)

// Parse takes a unified kernel image apart. Parts that it has not are empty in
// what is returned; an image without a kernel is an error. The parts share
// memory with the image.
func Parse(image []byte) (Image, error) {
	f, err := pe.NewFile(bytes.NewReader(image))
	if err != nil {
		return Image{}, fmt.Errorf("unified kernel image: %w", err)
	}
	if len(f.Sections) > maxSections {
		return Image{}, fmt.Errorf("unified kernel image: %d sections", len(f.Sections))
	}
	part := func(name string) []byte {
		s := f.Section(name)
		if s == nil {
			return nil
		}
		// What is in the file is padded; the size in memory is the part's own.
		start, size := uint64(s.Offset), uint64(min(s.Size, s.VirtualSize))
		if start+size > uint64(len(image)) {
			err = fmt.Errorf("unified kernel image: section %s lies outside of it", name)
			return nil
		}
		return image[start : start+size]
	}
	text := func(name string) string { return strings.TrimRight(string(part(name)), "\x00\n") }
	m := Image{OSRelease: part(".osrel"), Cmdline: text(".cmdline"), Uname: text(".uname"), Initrd: part(".initrd"), Linux: part(".linux")}
	if err == nil && len(m.Linux) == 0 {
		err = fmt.Errorf("unified kernel image: no kernel in it")
	}
	if err != nil {
		return Image{}, err
	}
	return m, nil
}
