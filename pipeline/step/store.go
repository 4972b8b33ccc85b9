package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/evidence"
	"goldsmith/internal/filelock"
	"goldsmith/internal/registry"
	"goldsmith/internal/sparse"
	"goldsmith/pipeline"
)

// Store is the directory where runs and images are kept.
type Store struct {
	Dir    string // runs/, oci/, disks/
	Images *registry.Layout
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
			if e.IsDir() && strings.HasPrefix(e.Name(), p) {
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

// Annotations of evidence, so that a gate need not open it.
const (
	annotationKind   = "vnd.goldsmith.evidence.kind"
	annotationResult = "vnd.goldsmith.evidence.result"
)

// Attach attaches evidence to the image it is about.
func (s *Store) Attach(e *evidence.Evidence) error {
	content, err := e.Encode()
	if err != nil {
		return err
	}
	junit, err := e.JUnit()
	if err != nil {
		return err
	}
	_, err = s.Images.Attach(e.Subject, registry.EvidenceType,
		map[string]string{annotationKind: e.Kind, annotationResult: string(e.Result)},
		registry.Blob{Title: "evidence.json", MediaType: registry.EvidenceType, Content: content},
		registry.Blob{Title: "junit.xml", MediaType: "application/xml", Content: junit})
	return err
}

// Proofs returns the evidence about an image as a gate reads it, oldest first.
func (s *Store) Proofs(digest string) ([]pipeline.Proof, error) {
	refs, err := s.Images.Referrers(digest, registry.EvidenceType)
	if err != nil {
		return nil, err
	}
	var proofs []pipeline.Proof
	for _, r := range refs {
		proofs = append(proofs, pipeline.Proof{
			Kind: r.Annotations[annotationKind], Passed: r.Annotations[annotationResult] == string(evidence.Pass),
		})
	}
	return proofs, nil
}

// Promote moves the channel's tag to the image when its evidence suffices,
// and returns a *pipeline.Refusal when it does not.
func (s *Store) Promote(digest string, c *pipeline.Channel) error {
	h, err := s.Images.Resolve(digest)
	if err != nil {
		return err
	}
	proofs, err := s.Proofs(h.String())
	if err != nil {
		return err
	}
	if err := pipeline.Gate(c, pipeline.Facts{Image: h.String(), Proofs: proofs}, time.Now()).Err(); err != nil {
		return err
	}
	if err := s.Images.Tag(h.String(), c.Name); err != nil {
		return fmt.Errorf("channel %s: %w", c.Name, err)
	}
	return nil
}
