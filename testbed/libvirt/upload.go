package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/template"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"goldsmith/internal/command"
)

// volumeTemplate is a volume of a pool. It is raw for libvirtd, whatever is in
// it: the bytes of the image, no more.
var volumeTemplate = template.Must(template.New("volume").Funcs(template.FuncMap{"x": escape}).Parse(
	`<volume><name>{{x .Name}}</name><capacity unit='bytes'>{{.Size}}</capacity><allocation unit='bytes'>0</allocation>
<target><format type='raw'/></target></volume>`))

// stall is how long libvirtd may take nothing of an upload.
const stall = time.Minute

// upload makes a volume of each disk, with the bytes of its image.
func (h *Host) upload(ctx context.Context, pool string, disks []disk) error {
	limit := h.limit()
	p, err := h.l.StoragePoolLookupByName(pool)
	limit.Stop()
	if err != nil {
		return fmt.Errorf("storage pool %s: %w", pool, err)
	}
	for _, d := range disks {
		if err := h.uploadDisk(ctx, p, d); err != nil {
			return fmt.Errorf("storage pool %s: volume %s: %w", pool, d.Source, err)
		}
	}
	return nil
}

func (h *Host) uploadDisk(ctx context.Context, pool golibvirt.StoragePool, d disk) error {
	var image io.Reader = strings.NewReader("")
	var length int64
	if d.Image != "" {
		f, err := os.Open(d.Image)
		if err != nil {
			return command.BadInput(err, "")
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			return err
		}
		image, length = f, fi.Size()
	}
	if d.Size > length && length > 0 && d.Type != "raw" {
		return errors.New("only a raw image can be made larger in a pool")
	}
	size := max(length, d.Size)
	var desc bytes.Buffer
	if err := volumeTemplate.Execute(&desc, struct {
		Name string
		Size int64
	}{d.Source, size}); err != nil {
		return err
	}
	limit := h.limit()
	vol, err := h.l.StorageVolCreateXML(pool, desc.String(), 0)
	limit.Stop()
	if err != nil || length == 0 {
		return err
	}
	sent, err := h.send(ctx, vol, io.LimitReader(image, length), length)
	if err != nil {
		return err
	}
	defer h.limit().Stop()
	_, capacity, _, err := h.l.StorageVolGetInfo(vol)
	if err == nil && (sent != length || capacity != uint64(size)) {
		err = fmt.Errorf("%d of %d bytes were taken, and it holds %d; want %d", sent, length, capacity, size)
	}
	return err
}

// send writes the volume over a connection of its own, which can be closed
// without harm to others when ctx ends or libvirtd takes nothing more.
func (h *Host) send(ctx context.Context, vol golibvirt.StorageVol, image io.Reader, length int64) (int64, error) {
	d := &dialer{sock: h.dialer.sock}
	l := golibvirt.NewWithDialer(d)
	if err := l.ConnectToURI(golibvirt.QEMUSystem); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(stall, func() { cancel(fmt.Errorf("libvirtd took nothing for %v", stall)) })
	defer late.Stop()
	counted := &counter{r: command.Reader(ctx, image), moved: func() { late.Reset(stall) }}
	done := make(chan error, 1)
	go func() { done <- l.StorageVolUpload(vol, counted, 0, uint64(length), 0) }()
	select {
	case err := <-done:
		return counted.n, errors.Join(err, context.Cause(ctx), l.Disconnect())
	case <-ctx.Done():
		// The library may wait for ever where both ends give up at once; its
		// goroutine ends with the connection otherwise.
		_ = d.conn.Close()
		return 0, context.Cause(ctx)
	}
}

// counter counts what is read.
type counter struct {
	r     io.Reader
	n     int64
	moved func()
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	c.moved()
	return n, err
}

// removeVolumes removes the volumes of a domain. It is no error when they, or
// the pool, are gone.
func (h *Host) removeVolumes(domain, pool string) error {
	if pool == "" {
		return nil
	}
	defer h.limit().Stop()
	p, err := h.l.StoragePoolLookupByName(pool)
	if is(err, golibvirt.ErrNoStoragePool) {
		return nil
	}
	if err != nil {
		return err
	}
	vols, _, err := h.l.StoragePoolListAllVolumes(p, 1, 0)
	if err != nil {
		return fmt.Errorf("storage pool %s: %w", pool, err)
	}
	var errs []error
	for _, v := range vols {
		if !strings.HasPrefix(v.Name, domain+"_") { // no machine's name has "_"
			continue
		}
		if err := h.l.StorageVolDelete(v, 0); err != nil && !is(err, golibvirt.ErrNoStorageVol) {
			errs = append(errs, fmt.Errorf("remove volume %s: %w", v.Name, err))
		}
	}
	return errors.Join(errs...)
}
