package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/attest"
	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/filelock"
	"goldsmith/internal/registry"
	"goldsmith/internal/sparse"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

// Store is the directory where runs and images are kept.
type Store struct {
	Dir    string // runs/, oci/, disks/
	Images *registry.Layout
	// Key signs evidence; nil: it is not signed.
	Key *trust.PrivateKey
}

// OpenStore opens the store in dir and makes it when it is not there.
func OpenStore(dir string) (*Store, error) {
	images, err := registry.Open(filepath.Join(dir, "oci"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "disks"), 0o755); err != nil {
		return nil, err
	}
	return &Store{Dir: dir, Images: images}, nil
}

// Metal is the directory of servers' sites (metal.Config).
func (s *Store) Metal() string { return filepath.Join(s.Dir, "metal") }

// scratchPrefixes begin the names of directories that live as long as a stage.
var scratchPrefixes = []string{"build-", "smoke-"}

// Enter says that stages are worked on in the store, until leave is called.
// Whoever comes first removes what killed processes left behind.
func (s *Store) Enter(ctx context.Context) (leave func(), err error) {
	file := filepath.Join(s.Dir, "lock")
	alone, err := filelock.Try(file, filelock.Exclusive)
	switch {
	case err == nil:
		err = errors.Join(s.sweep(), alone.Close())
	case errors.Is(err, filelock.ErrLocked):
		err = nil
	}
	if err != nil {
		return nil, err
	}
	l, err := filelock.Lock(ctx, file, filelock.Shared, func() {})
	if err != nil {
		return nil, err
	}
	return func() { _ = l.Close() }, nil
}

// sweep removes what was left by stages that were killed.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.Dir)
	for _, e := range entries {
		for _, p := range scratchPrefixes {
			if strings.HasPrefix(e.Name(), p) {
				err = errors.Join(err, os.RemoveAll(filepath.Join(s.Dir, e.Name())))
			}
		}
	}
	return err
}

// scratch makes a directory that only we can read and returns its absolute
// path; its caller removes it.
func (s *Store) scratch(prefix string) (string, error) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, prefix)
}

// Disk returns the path of an image's raw disk for machines to start from. It
// is unpacked from the layout when it is not there, and verified when it is:
// machines run on exactly the bytes of the digest.
func (s *Store) Disk(ctx context.Context, digest string) (string, error) {
	img, err := s.Images.Image(digest)
	if err != nil {
		return "", err
	}
	path := s.diskPath(img.SHA256)
	switch sum, err := hashFile(ctx, path); {
	case err == nil && sum == img.SHA256:
		return path, nil
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return "", err
	}
	return path, s.Images.Extract(ctx, digest, path)
}

func (s *Store) diskPath(sha256 string) string {
	return filepath.Join(s.Dir, "disks", sha256+".raw")
}

// adopt moves a freshly built disk to where machines start from it.
func (s *Store) adopt(path, sha256 string) error {
	return os.Rename(path, s.diskPath(sha256))
}

func hashFile(ctx context.Context, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r, err := sparse.NewReader(f)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, command.Reader(ctx, r), make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Attach attaches evidence to the image it is about, signed where the store has
// a key for that.
func (s *Store) Attach(e *evidence.Evidence) error {
	_, err := attest.AttachEvidence(s.Images, e, s.keys()...)
	return err
}

// keys are those that sign evidence.
func (s *Store) keys() []*trust.PrivateKey {
	if s.Key == nil {
		return nil
	}
	return []*trust.PrivateKey{s.Key}
}

// Proofs returns the evidence about an image as a gate reads it that asks for
// nobody's signature, oldest first.
func (s *Store) Proofs(digest string) ([]pipeline.Proof, error) {
	return attest.Proofs(s.Images, digest, nil)
}

// SweepDisks removes unpacked disks older than age that no image has any more;
// removed are images that count as gone. It returns how many, and their bytes
// as files. With dry nothing is removed.
func (s *Store) SweepDisks(removed []string, age time.Duration, now time.Time, dry bool) (n int, bytes int64, err error) {
	images, err := s.Images.List()
	if err != nil {
		return 0, 0, err
	}
	used := map[string]bool{}
	for _, digest := range images {
		if slices.Contains(removed, digest) {
			continue
		}
		img, err := s.Images.Image(digest)
		if err != nil {
			return 0, 0, err
		}
		used[s.diskPath(img.SHA256)] = true
	}
	disks, err := filepath.Glob(s.diskPath("*"))
	if err != nil {
		return 0, 0, err
	}
	for _, path := range disks {
		fi, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) || used[path] || err == nil && now.Sub(fi.ModTime()) <= age {
			continue
		}
		if err == nil && !dry {
			err = os.Remove(path)
		}
		if err != nil {
			return n, bytes, err
		}
		n++
		bytes += fi.Size()
	}
	return n, bytes, nil
}
