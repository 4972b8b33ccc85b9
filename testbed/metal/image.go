package metal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/uki"
	"goldsmith/internal/update"
	"goldsmith/internal/update/fetch"
	"goldsmith/testbed/netboot"
)

// imageBoot is what a node starts from the network that has an image on its
// disk: the image's own kernel, initramfs and command line, which holds the root
// hash. They are unpacked once, and verified by the image's digest then.
func (s *Site) imageBoot(ctx context.Context, digest string) (*netboot.Boot, error) {
	dir := filepath.Join(s.cfg.Dir, "boot", bootDir(digest))
	b := &netboot.Boot{Kernel: filepath.Join(dir, "linux"), Initrd: filepath.Join(dir, "initrd")}
	cmdline := filepath.Join(dir, "cmdline") // written last
	text, err := os.ReadFile(cmdline)
	if errors.Is(err, os.ErrNotExist) {
		text, err = s.unpack(ctx, digest, b, cmdline)
	}
	// The machine must not look for a boot loader that started it.
	b.Cmdline = strings.TrimSpace(string(text) + " goldsmith.from=" + update.FromNetwork + " " + s.cfg.Cmdline)
	return b, err
}

// sweep removes what was unpacked of images that no node has any more.
func (s *Site) sweep(ctx context.Context) error {
	nodes, err := s.cfg.Inventory.Nodes(ctx)
	if err != nil {
		return err
	}
	wanted := map[string]bool{}
	for _, n := range nodes {
		wanted[bootDir(n.Image)] = true
	}
	dir := filepath.Join(s.cfg.Dir, "boot")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !wanted[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func bootDir(digest string) string { return strings.ReplaceAll(digest, ":", "-") }

func (s *Site) unpack(ctx context.Context, digest string, b *netboot.Boot, cmdline string) ([]byte, error) {
	im, err := fetch.Open(ctx, "oci:"+s.cfg.Images+"@"+digest, nil)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	m := &memory{}
	if _, err := im.Write(ctx, fetch.UKI, m, fetch.Options{}); err != nil {
		return nil, fmt.Errorf("%s: its kernel image: %w", digest, err)
	}
	parts, err := uki.Parse(m.b)
	if err != nil {
		return nil, fmt.Errorf("%s: its kernel image: %w", digest, err)
	}
	if err := os.MkdirAll(filepath.Dir(cmdline), 0o750); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		path    string
		content []byte
	}{{b.Kernel, parts.Linux}, {b.Initrd, parts.Initrd}, {cmdline, []byte(parts.Cmdline)}} {
		if err := atomicfile.Write(f.path, f.content, 0o644); err != nil {
			return nil, err
		}
	}
	return []byte(parts.Cmdline), nil
}

// maxUKI bounds a kernel image in memory, in bytes.
const maxUKI = 512 << 20

// memory is an io.WriterAt in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	if off < 0 || end > maxUKI {
		return 0, fmt.Errorf("%d bytes are too many for a kernel image", end)
	}
	if end > int64(len(m.b)) {
		m.b = append(m.b, make([]byte, end-int64(len(m.b)))...)
	}
	return copy(m.b[off:], p), nil
}
