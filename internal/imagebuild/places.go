package imagebuild

import (
	"cmp"
	"path/filepath"
)

// dir is where the build's steps work: TMP_BUILD_DIR.
func (b *build) dir() string {
	if b.state != nil {
		return b.state.dir
	}
	return b.work.dir
}

// workDir is where hooks on the host run. Called by an original's name that is
// the caller's directory; else one that is the same in every build, as what a
// hook finds there would have to count for what it makes.
func (b *build) workDir() string { return cmp.Or(b.cwd, b.dir()) }

// root is the image's tree.
func (b *build) root() string { return filepath.Join(b.dir(), treeName) }

// hooks is the tree that the elements' files are merged into.
func (b *build) hooks() string { return filepath.Join(b.dir(), hooksName) }

// Names in the directory that steps work in.
const (
	treeName       = "mnt"
	hooksName      = "hooks"
	imageName      = "image"        // TMP_IMAGE_DIR: the disks, and what ramdisk elements leave
	libName        = "lib"          // _LIB
	packagesName   = "packages"     // GOLDSMITH_PACKAGES
	manifestsName  = "manifests"    // DIB_MANIFEST_SAVE_DIR
	blockDeviceDir = "block-device" // what hooks are told of the disk
)
