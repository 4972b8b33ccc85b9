package disk

import (
	"bytes"
	"context"
	"io"

	"goldsmith/internal/initramfs"
)

// WriteDeployInitrd writes the initial RAM disk by which machines are deployed,
// with modules of the kernel that [WriteKernel] takes. Kernel, in d, is not
// looked at.
func WriteDeployInitrd(ctx context.Context, w io.Writer, d initramfs.Deploy) error {
	version, _, err := findKernel(d.Root, "")
	if err != nil {
		return err
	}
	d.Kernel = version
	var archive bytes.Buffer
	if _, err := initramfs.BuildDeploy(&archive, d); err != nil {
		return err
	}
	return initramfs.Compress(ctxWriter{ctx, w}, archive.Bytes())
}
