package apt

import (
	"bytes"
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

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"goldsmith/internal/command"
	"goldsmith/internal/download"
)

const (
	maxRelease = 64 << 20 // bytes
	maxIndex   = 1 << 30  // bytes, uncompressed
	parallel   = 6        // downloads at once
)

// store is the directory that keeps what was downloaded. Every name below it
// is a check sum.
type store struct {
	dir     string
	offline bool
	getter  download.Getter
}

func newStore(dir string, offline bool, retrying func(error)) *store {
	return &store{dir, offline, download.Getter{
		Tries: 4, Delay: time.Second / 2, Backoff: true, Retrying: retrying,
	}}
}

var errOffline = command.Missing(errors.New("not in the cache, and nothing may be downloaded (offline)"),
	"do it once without --offline")

func (s *store) path(kind, sum string) string { return filepath.Join(s.dir, kind, sum[:2], sum) }

// get brings a file whose content is known by its sum into the store.
func (s *store) get(ctx context.Context, kind, url string, want fileSum) (string, error) {
	p := s.path(kind, want.sha256)
	if ok, err := hasSum(p, want); ok || err != nil {
		return p, err
	}
	if s.offline {
		return "", fmt.Errorf("%s: %w", url, errOffline)
	}
	g := s.getter
	g.Force, g.Limit, g.SHA256 = true, want.size, want.sha256
	_, err := g.Get(ctx, url, p)
	return p, err
}

// hasSum tells whether a file is there and is what it should be. A damaged one
// is as good as none.
func hasSum(file string, want fileSum) (bool, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return err == nil && n == want.size && hex.EncodeToString(h.Sum(nil)) == want.sha256, err
}

// getByName brings a file whose content is not known before: the newest that
// the mirror has, or offline what was there the last time.
func (s *store) getByName(ctx context.Context, url string) (string, error) {
	sum := sha256.Sum256([]byte(url))
	p := s.path("release", hex.EncodeToString(sum[:]))
	if s.offline {
		if _, err := os.Stat(p); err != nil {
			return "", fmt.Errorf("%s: %w", url, errOffline)
		}
		return p, nil
	}
	g := s.getter
	g.Limit = maxRelease
	_, err := g.Get(ctx, url, p)
	return p, err
}

// fetchIndexes brings the lists of packages of all sources, verified: one
// text for each list, in the order of sources.
func fetchIndexes(ctx context.Context, st *store, o Options) ([][]index, error) {
	out := make([][]index, len(o.Sources))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, s := range o.Sources {
		g.Go(func() error {
			found, err := fetchSource(ctx, st, s, o)
			if err != nil {
				return fmt.Errorf("package source %s %s: %w", s.URI, s.Suite, err)
			}
			out[i] = found
			return nil
		})
	}
	return out, g.Wait()
}

// index is the text of one Packages file.
type index struct {
	url  string
	text string
	pin  int
}

func fetchSource(ctx context.Context, st *store, s Source, o Options) ([]index, error) {
	base := s.URI + "/dists/" + s.Suite
	if strings.HasSuffix(s.Suite, "/") {
		base = s.URI + "/" + strings.Trim(s.Suite, "./")
	}
	base = strings.TrimRight(base, "/")
	text, err := fetchRelease(ctx, st, s, base, o.Keyrings)
	if err != nil {
		return nil, err
	}
	r, err := parseRelease(string(text))
	if err == nil {
		err = r.check(s, time.Now())
	}
	if err != nil {
		return nil, fmt.Errorf("its Release file: %w", err)
	}
	var out []index
	for _, name := range r.indexes(s, o.Arch) {
		text, err := fetchIndex(ctx, st, r, base, name)
		if err != nil {
			return nil, err
		}
		out = append(out, index{base + "/" + name, text, r.pin()})
	}
	return out, nil
}

// pin is how apt prefers the versions of a source, apt_preferences(5).
func (r *release) pin() int {
	switch {
	case r.fields["NotAutomatic"] != "yes":
		return 500
	case r.fields["ButAutomaticUpgrades"] == "yes":
		return 100
	}
	return 1
}

// fetchRelease returns the text of the source's Release file that is signed.
func fetchRelease(ctx context.Context, st *store, s Source, base string, keyrings []string) ([]byte, error) {
	if by := s.Options["signed-by"]; by != "" {
		keyrings = strings.Split(by, ",")
	}
	trusted := s.set("trusted", false)
	file, err := st.getByName(ctx, base+"/InRelease")
	sig := ""
	if errors.Is(err, download.ErrNotFound) || errors.Is(err, errOffline) {
		first := err
		if file, err = st.getByName(ctx, base+"/Release"); err != nil {
			return nil, first
		}
		if !trusted {
			if sig, err = st.getByName(ctx, base+"/Release.gpg"); err != nil {
				return nil, command.Hint(err, keyRemedy)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	if trusted {
		return unsigned(file)
	}
	text, err := verify(ctx, file, sig, keyrings)
	if err != nil && !st.offline {
		// The next build must not be told that this is the newest.
		err = errors.Join(err, os.Remove(file))
	}
	return text, err
}

// unsigned returns the text of a Release file, or that between the marks of
// an InRelease file, unchecked.
func unsigned(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if bytes.HasPrefix(b, []byte("-----BEGIN PGP SIGNED MESSAGE-----")) {
		_, b, _ = bytes.Cut(b, []byte("\n\n"))
		b, _, _ = bytes.Cut(b, []byte("-----BEGIN PGP SIGNATURE-----"))
	}
	return b, nil
}

// fetchIndex returns a list of packages in the smallest form that there is.
func fetchIndex(ctx context.Context, st *store, r *release, base, name string) (string, error) {
	for _, ending := range []string{".xz", ".gz", ""} {
		want, ok := r.files[name+ending]
		if !ok || want.size > maxIndex {
			continue
		}
		url := base + "/" + name + ending
		if r.fields["Acquire-By-Hash"] == "yes" {
			url = base + "/" + filepath.Dir(name) + "/by-hash/SHA256/" + want.sha256
		}
		file, err := st.get(ctx, "index", url, want)
		if err != nil {
			return "", err
		}
		limit := r.files[name].size
		if limit == 0 || limit > maxIndex {
			limit = maxIndex
		}
		text, err := uncompressed(ctx, file, ending, limit)
		if err != nil {
			return "", fmt.Errorf("%s: %w", url, err)
		}
		return text, nil
	}
	return "", fmt.Errorf("%s/%s: the Release file does not list it: is the component or architecture not there?",
		base, name)
}

func uncompressed(ctx context.Context, file, ending string, limit int64) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	w := &bounded{limit: limit}
	switch ending {
	case ".xz":
		// Several times as fast as what can be had in Go.
		err = command.Exec{
			Args: []string{"xz", "--decompress", "--stdout"}, Stdin: f, Stdout: w, Remedy: "apt-get install xz-utils",
		}.Run(ctx)
	case ".gz":
		var z *gzip.Reader
		if z, err = gzip.NewReader(f); err == nil {
			_, err = io.Copy(w, z)
		}
	default:
		_, err = io.Copy(w, f)
	}
	return w.text.String(), err
}

// bounded keeps what is written to it, up to a limit.
type bounded struct {
	text  strings.Builder
	limit int64 // bytes
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(b.text.Len()+len(p)) > b.limit {
		return 0, fmt.Errorf("more than %d bytes", b.limit)
	}
	if b.text.Len() == 0 {
		b.text.Grow(int(min(b.limit, 64<<20)))
	}
	return b.text.Write(p)
}
