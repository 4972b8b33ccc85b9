package imagebuild

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/filelist"
	"goldsmith/internal/tree"
)

// Beside the layers, a cache keeps what outputs took long to compute of them.
// Nothing of it is needed: what is not there, or not whole, is computed again.
const (
	resultsName = "results" // what came of a computation, by the digest of what went in
	digestsName = "digests" // of an image's files, by image
)

// memo returns what compute gave for that key the last time, or computes it.
func (c *cache) memo(key string, compute func() ([]byte, error)) ([]byte, error) {
	sum := sha256.Sum256([]byte(key))
	path := filepath.Join(c.dir, resultsName, hex.EncodeToString(sum[:16]))
	if kept, err := os.ReadFile(path); err == nil {
		if result, ok := unsealed(kept); ok {
			now := time.Now()
			_ = os.Chtimes(path, now, now) // for prune
			return result, nil
		}
	}
	result, err := compute()
	if err == nil {
		keepResult(path, sealed(result))
	}
	return result, err
}

// sealed puts the digest of the data before it, unsealed takes it off.
func sealed(data []byte) []byte {
	sum := sha256.Sum256(data)
	return append(sum[:], data...)
}

func unsealed(data []byte) ([]byte, bool) {
	if len(data) < sha256.Size {
		return nil, false
	}
	sum := sha256.Sum256(data[sha256.Size:])
	return data[sha256.Size:], bytes.Equal(sum[:], data[:sha256.Size])
}

// keepResult writes a file of the cache. That it cannot, for a full disk or a
// cache that may only be read, is no reason to fail.
func keepResult(path string, data []byte) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
		_ = atomicfile.Write(path, data, 0o644)
	}
}

// sums returns the digests of files that the last build of that image found.
// Like the stamps of layers they count for one run of the machine.
func (c *cache) sums(image string) (filelist.Sums, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	kept, err := os.ReadFile(c.sumsPath(image))
	text, whole := unsealed(kept)
	if err != nil || !whole || !bytes.HasPrefix(text, []byte(boot+"\n")) {
		return nil, nil
	}
	sums := filelist.Sums{}
	for line := range strings.SplitSeq(string(text), "\n") {
		if f := strings.SplitN(line, "\t", 3); len(f) == 3 {
			sums[f[2]] = filelist.Sum{Stamp: f[0], SHA256: f[1]}
		}
	}
	return sums, nil
}

// keepSums writes them down for the next build.
func (c *cache) keepSums(image string, t *tree.Tree, files []filelist.File) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	w := bufio.NewWriter(&text)
	fmt.Fprintln(w, boot)
	for i, e := range t.All() {
		if e.Stamp() != "" && !strings.Contains(e.Path, "\n") {
			fmt.Fprintf(w, "%s\t%s\t%s\n", e.Stamp(), files[i].SHA256, e.Path)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	keepResult(c.sumsPath(image), sealed(text.Bytes()))
	return nil
}

func (c *cache) sumsPath(image string) string {
	sum := sha256.Sum256([]byte(image))
	return filepath.Join(c.dir, digestsName, hex.EncodeToString(sum[:16]))
}

func bootID() (string, error) {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id)), err
}
