// Package release is the description of an image as machines need it: what
// they run, and where in the image's disk it lies. It is the configuration
// blob of the image's OCI manifest, so the image's digest covers it.
package release

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"

	"goldsmith/internal/bootentry"
)

// MediaType is that of the description in an OCI manifest, Format what its
// member "format" says.
const (
	MediaType = "application/vnd.goldsmith.release.v1+json"
	Format    = "goldsmith.release/1"
)

// MaxSize is the largest description that is read, in bytes.
const MaxSize = 64 << 10

// Release describes one image. Sizes and offsets are in bytes.
type Release struct {
	Format  string `json:"format"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	Disk    Disk   `json:"disk"`
	// Root and UKI are nil in the description of a disk that is not
	// goldsmith's own: a machine cannot be updated to it.
	Root *Root `json:"root,omitempty"`
	UKI  *UKI  `json:"uki,omitempty"`
}

// Disk is the raw disk.
type Disk struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal, holes counted as zeros
}

// Root is the root file system inside the disk, and its dm-verity tree.
type Root struct {
	Offset   int64  `json:"offset"`
	Size     int64  `json:"size"`      // what the tree covers: a multiple of 4096
	RootHash string `json:"root_hash"` // SHA-256, in hexadecimal
	Salt     string `json:"salt"`      // in hexadecimal
	UUID     string `json:"uuid"`      // of the tree's superblock
}

// UKI is the unified kernel image, which lies in one piece in the disk.
type UKI struct {
	ID     string `json:"id"` // NAME_VERSION, the name of its file without ".efi"
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // in hexadecimal
}

// Encode returns the description in its one form: the same description, the
// same bytes.
func (r *Release) Encode() ([]byte, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// Parse reads a description. A member that it does not know, and anything that
// Check refuses, is an error.
func Parse(text []byte) (*Release, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("release description of more than %d bytes", MaxSize)
	}
	r := &Release{}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("release description: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("release description: more than one value")
	}
	return r, r.Check()
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

const (
	block   = 4096
	maxDisk = 1 << 50
	maxSalt = 256 // the superblock's room for it
	maxUKI  = 1 << 30
)

// Check says what is wrong with a description.
func (r *Release) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("release description: "+format, args...)
	}
	switch {
	case r.Format != Format:
		return bad("format %q: want %q", r.Format, Format)
	case !bootentry.IsName(r.Name):
		return bad("name %q", r.Name)
	case !bootentry.IsVersion(r.Version):
		return bad("version %q", r.Version)
	case !bootentry.IsName(r.Arch):
		return bad("arch %q", r.Arch)
	case r.Disk.Size <= 0 || r.Disk.Size > maxDisk || !isHex(r.Disk.SHA256, 32):
		return bad("disk of %d bytes with SHA-256 %q", r.Disk.Size, r.Disk.SHA256)
	case (r.Root == nil) != (r.UKI == nil):
		return bad("only one of root and uki is there")
	case r.Root == nil:
		return nil
	case !r.inside(r.Root.Offset, r.Root.Size) || r.Root.Size%block != 0:
		return bad("root of %d bytes at %d", r.Root.Size, r.Root.Offset)
	case !isHex(r.Root.RootHash, 32):
		return bad("root_hash %q", r.Root.RootHash)
	case len(r.Root.Salt) > 2*maxSalt || !isHex(r.Root.Salt, len(r.Root.Salt)/2):
		return bad("salt %q", r.Root.Salt)
	case !uuidForm.MatchString(r.Root.UUID):
		return bad("uuid %q", r.Root.UUID)
	case r.UKI.ID != bootentry.ID(r.Name, r.Version):
		return bad("uki of %q", r.UKI.ID)
	case !r.inside(r.UKI.Offset, r.UKI.Size) || r.UKI.Size > maxUKI || !isHex(r.UKI.SHA256, 32):
		return bad("uki of %d bytes at %d with SHA-256 %q", r.UKI.Size, r.UKI.Offset, r.UKI.SHA256)
	}
	return nil
}

func (r *Release) inside(offset, size int64) bool {
	return offset >= 0 && size > 0 && offset <= r.Disk.Size && size <= r.Disk.Size-offset
}

// isHex tells whether s is n bytes in lower case hexadecimal.
func isHex(s string, n int) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == n && hex.EncodeToString(b) == s
}
