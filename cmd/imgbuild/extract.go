package main

import (
	"context"
	"flag"

	"goldsmith/internal/baseimage"
	"goldsmith/internal/command"
)

func extractCommand() *command.Command {
	var o baseimage.Options
	return &command.Command{
		Name:  "extract",
		Args:  "IMAGE DIRECTORY",
		Short: "write the files of an image to a directory",
		Long: `
IMAGE is a file or its URL: a qcow2 image, a raw disk or an archive, also
compressed. Or it is a container image: oci:DIRECTORY:TAG, oci-archive:FILE:TAG,
or HOST/REPOSITORY:TAG in a registry. Of a disk, the root file system is read,
which must be ext2, ext3 or ext4, and what its fstab mounts of the same kinds.

A checksum or signature is verified before anything is written. DIRECTORY must
be empty or not there, and appears when it is complete. Downloads are kept in
the cache and asked for again only when the server has something newer.`,
		Example: `imgbuild extract --sums SHA512SUMS debian-12-generic-amd64.qcow2 root
imgbuild extract --sums https://images.example/SHA256SUMS \
    --signature https://images.example/SHA256SUMS.gpg --keyring images.gpg \
    https://images.example/server.img root`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&o.SHA256, "sha256", "", "the image must have this checksum, in `hexadecimal`")
			fs.StringVar(&o.Sums, "sums", "", "the image must be in this `file` (or URL) of checksums")
			fs.StringVar(&o.Signature, "signature", "", "`file` (or URL) that signs the checksums, or without them the image")
			fs.StringVar(&o.Keyring, "keyring", "", "`file` of the public keys of which one must have signed")
			fs.StringVar(&o.Arch, "arch", "amd64", "`architecture` of a container image for several")
			fs.IntVar(&o.Partition, "partition", 0, "read the partition of this `number` and no other")
			fs.BoolVar(&o.Offline, "offline", false, "take what is in the cache and ask no server")
			fs.StringVar(&o.Cache, "cache", "", "keep downloads in `directory` (default ~/.cache/goldsmith)")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 2 {
				return command.Usage("extract needs an image and a directory", "imgbuild extract server.qcow2 root")
			}
			p := command.NewProgress("imgbuild", io, false)
			defer p.Close()
			o.Info = p.Info
			return baseimage.Extract(ctx, args[0], args[1], o)
		},
	}
}
