package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/filelock"
)

// An upload is a file below .uploads that is as long as what has come. Who adds
// to it has it locked.

// Limits of uploads.
const (
	uploadsDir  = ".uploads"
	uploadLife  = time.Hour   // without anything being added
	maxUploads  = 256         // at once
	uploadPause = time.Minute // that a client may take to send anything
)

var uploadRE = regexp.MustCompile(`^[0-9a-f]{32}$`)

// slowBody is a body whose sender must go on sending.
type slowBody struct {
	io.Reader
	control *http.ResponseController
}

// Read implements io.Reader.
func (b slowBody) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(uploadPause)) // not every writer can
	n, err := b.Reader.Read(p)
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func patient(c *call) io.ReadCloser {
	return io.NopCloser(slowBody{c.r.Body, http.NewResponseController(c.w)})
}

// begin begins an upload. With ?digest= the body is all of it; with ?mount= a
// blob that is here already is enough.
func (s *served) begin(c *call) error {
	query := c.r.URL.Query()
	if text := query.Get("mount"); text != "" {
		if h, err := digest(text); err == nil {
			if f, _, err := s.open(h); err == nil {
				_ = f.Close()
				if s.layout.freshen(h) == nil {
					return c.created(h)
				}
			}
		}
	}
	want := query.Get("digest")
	if want != "" {
		if _, err := digest(want); err != nil {
			return err
		}
	}
	id, err := s.newUpload(c.r.Context())
	if err != nil {
		return err
	}
	if c.arg = id; want != "" {
		return s.finish(c)
	}
	return c.accepted(id, 0, http.StatusAccepted)
}

// newUpload makes the file of an upload, and removes those that nobody adds to.
func (s *served) newUpload(ctx context.Context) (string, error) {
	dir := filepath.Join(s.layout.dir, uploadsDir)
	unlock, err := s.layout.lock(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return "", cmp.Or(err, fmt.Errorf("%s is no directory", dir))
	}
	n, err := sweepUploads(dir, time.Now())
	if err != nil {
		return "", err
	}
	if n >= maxUploads {
		return "", bad(http.StatusTooManyRequests, "TOOMANYREQUESTS", "%d uploads go on already", n)
	}
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails
	id := hex.EncodeToString(b)
	f, err := os.OpenFile(filepath.Join(dir, id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	return id, f.Close()
}

// sweepUploads removes uploads that nobody added to for a while, and returns
// how many there are still.
func sweepUploads(dir string, now time.Time) (n int, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		fi, err := os.Lstat(path)
		if err != nil {
			continue // its upload has just ended
		}
		if now.Sub(fi.ModTime()) > uploadLife {
			if f, err := filelock.Try(path, filelock.Exclusive); err == nil {
				err = errors.Join(os.Remove(path), f.Close())
				if err != nil {
					return n, err
				}
				continue
			}
		}
		n++
	}
	return n, err
}

// upload is one that we have locked.
type upload struct {
	*os.File
	size int64
}

// hold locks an upload until it is closed.
func (s *served) hold(id string) (*upload, error) {
	unknown := bad(http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "there is no such upload; begin it again")
	if !uploadRE.MatchString(id) {
		return nil, unknown
	}
	path := filepath.Join(s.layout.dir, uploadsDir, id)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unknown
	}
	if err != nil {
		return nil, err
	}
	if err = filelock.File(f, filelock.Exclusive); errors.Is(err, filelock.ErrLocked) {
		err = bad(http.StatusConflict, "BLOB_UPLOAD_INVALID", "another request adds to this upload")
	}
	var fi fs.FileInfo
	if err == nil {
		fi, err = f.Stat()
	}
	if err == nil {
		if now, e := os.Lstat(path); e != nil || !os.SameFile(fi, now) {
			err = unknown // it ended before we had it
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &upload{f, fi.Size()}, nil
}

// add adds a request's body to an upload: all of it, or nothing.
func (s *served) add(c *call, u *upload) error {
	if text := c.r.Header.Get("Content-Range"); text != "" {
		var from, to int64
		if n, err := fmt.Sscanf(text, "%d-%d", &from, &to); n != 2 || err != nil || from != u.size || c.r.ContentLength >= 0 && to-from+1 != c.r.ContentLength {
			c.where(c.arg, u.size)
			return bad(http.StatusRequestedRangeNotSatisfiable, "BLOB_UPLOAD_INVALID", "the upload has %d bytes; add what follows", u.size)
		}
	}
	room := s.MaxBlob - u.size
	if _, err := u.Seek(u.size, io.SeekStart); err != nil {
		return err
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{u.File}, io.LimitReader(patient(c), room+1), make([]byte, 1<<20))
	switch {
	case errors.Is(err, unix.ENOSPC):
	case err != nil && c.r.Context().Err() != nil, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded):
		err = bad(http.StatusBadRequest, "BLOB_UPLOAD_INVALID", "the body ended early")
	case err == nil && n > room:
		err = bad(http.StatusRequestEntityTooLarge, "SIZE_INVALID", "a blob has at most %d bytes", s.MaxBlob)
	}
	if err != nil {
		return errors.Join(err, u.Truncate(u.size))
	}
	u.size += n
	return nil
}

// where says how much of an upload is here.
func (c *call) where(id string, size int64) {
	c.w.Header().Set("Location", fmt.Sprintf("/v2/%s/blobs/uploads/%s", c.repository, id))
	c.w.Header().Set("Docker-Upload-Uuid", id)
	c.w.Header().Set("Range", "0-"+strconv.FormatInt(max(0, size-1), 10))
}

func (c *call) accepted(id string, size int64, status int) error {
	c.where(id, size)
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(status)
	return nil
}

func (c *call) created(h v1.Hash) error {
	c.w.Header().Set("Location", fmt.Sprintf("/v2/%s/blobs/%s", c.repository, h))
	c.w.Header().Set("Docker-Content-Digest", h.String())
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

// progress says how much of an upload is here.
func (s *served) progress(c *call) error {
	u, err := s.hold(c.arg)
	if err != nil {
		return err
	}
	defer u.Close()
	c.where(c.arg, u.size)
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// patch adds to an upload.
func (s *served) patch(c *call) error {
	u, err := s.hold(c.arg)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := s.add(c, u); err != nil {
		return err
	}
	return c.accepted(c.arg, u.size, http.StatusAccepted)
}

// abandon ends an upload.
func (s *served) abandon(c *call) error {
	u, err := s.hold(c.arg)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := os.Remove(u.Name()); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// finish ends an upload, whose content becomes a blob if it has the digest that
// the client says. One with another is removed.
func (s *served) finish(c *call) error {
	h, err := digest(c.r.URL.Query().Get("digest"))
	if err != nil {
		return err
	}
	u, err := s.hold(c.arg)
	if err != nil {
		return err
	}
	defer u.Close()
	if err := s.add(c, u); err != nil {
		return err
	}
	got, err := u.sum(c.r.Context())
	if err != nil {
		return err
	}
	if got != h {
		err := bad(http.StatusBadRequest, "DIGEST_INVALID", "what came has the digest %s", got)
		return errors.Join(err, os.Remove(u.Name()))
	}
	if err := s.settle(c.r.Context(), u, h); err != nil {
		return err
	}
	return c.created(h)
}

// settle makes a blob of an upload. No collection sees it older than it is.
func (s *served) settle(ctx context.Context, u *upload, h v1.Hash) error {
	unlock, err := s.layout.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now := time.Now()
	return errors.Join(os.Chtimes(u.Name(), now, now), s.layout.take(u.Name(), h))
}

func (u *upload) sum(ctx context.Context) (v1.Hash, error) {
	if _, err := u.Seek(0, io.SeekStart); err != nil {
		return v1.Hash{}, err
	}
	h := sha256.New()
	if _, err := io.CopyBuffer(h, command.Reader(ctx, u), make([]byte, 1<<20)); err != nil {
		return v1.Hash{}, err
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}, nil
}
