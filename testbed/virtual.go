package testbed

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"

	"goldsmith/internal/command"
)

// CreateOverlay makes the qcow2 file path, which holds what a machine writes
// over image: the image itself, "raw" or "qcow2" as format says, is only read.
// size in bytes makes the disk larger; 0 means the image's size. Without image
// the disk is empty and size must be given. Without qemu-img the error is a
// command.Missing one.
func CreateOverlay(ctx context.Context, path, image, format string, size int64) error {
	args := []string{"qemu-img", "create", "-q", "-f", "qcow2"}
	if image != "" {
		args = append(args, "-F", format, "-b", image)
	}
	args = append(args, path)
	if size > 0 {
		args = append(args, strconv.FormatInt(size, 10))
	}
	return command.Exec{Args: args, Remedy: "install qemu-utils"}.Run(ctx)
}

// HashedMAC is a hardware address in QEMU's range, the same for the same s.
func HashedMAC(s string) string {
	h := sha256.Sum256([]byte(s))
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", h[0], h[1], h[2])
}
