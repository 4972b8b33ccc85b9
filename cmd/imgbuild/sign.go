package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/registry"
	"goldsmith/internal/trust"
	"goldsmith/internal/update/fetch"
)

func signCommand() *command.Command {
	var key string
	return &command.Command{
		Name:  "sign",
		Args:  "IMAGE",
		Short: "sign an image as a release",
		Long: `
IMAGE is oci:DIRECTORY:TAG, an image in an OCI image layout, or
HOST/REPOSITORY:TAG in a registry, or either with @ and the digest. The
signature is attached to the image there, and the image's digest printed. An
image may have several signatures; one that a machine trusts is enough for it.
'imgbuild push' takes signatures along.`,
		Example: `imgbuild sign oci:.goldsmith/oci:production --key keys/release.key
imgbuild sign registry.example/images/demo:production --key keys/release.key`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&key, "key", "", "sign with the private key in `file` (PEM, PKCS #8)")
		},
		Run: func(ctx context.Context, std command.IO, args []string) error {
			if len(args) != 1 || key == "" {
				return command.Usage("sign needs one image and --key", "imgbuild sign oci:.goldsmith/oci:production --key keys/release.key")
			}
			digest, err := sign(ctx, args[0], key)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(std.Stdout, digest)
			return err
		},
	}
}

func verifyCommand() *command.Command {
	var key, dir string
	return &command.Command{
		Name:  "verify",
		Args:  "IMAGE",
		Short: "verify an image's signature",
		Long: `
IMAGE is named as for 'imgbuild sign', or as a machine names it: the URL of a
layout with @ and the digest. With --trust, what a machine asks is asked: one
signature by a key of the directory that is not revoked there, an image that is
not revoked, and no version below minimum-version. The image's digest, name and
version are printed. The disk is not read.`,
		Example: `imgbuild verify registry.example/images/demo:production --key keys/release.pub
imgbuild verify oci:.goldsmith/oci:production --trust elements/demo/static/usr/share/goldsmith/trust`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&key, "key", "", "trust the public key in `file`")
			fs.StringVar(&dir, "trust", "", "trust what a machine with that `directory` trusts")
		},
		Run: func(ctx context.Context, std command.IO, args []string) error {
			if len(args) != 1 || (key == "") == (dir == "") {
				return command.Usage("verify needs one image, and --key or --trust", "imgbuild verify oci:.goldsmith/oci:production --key keys/release.pub")
			}
			policy, err := trust.ReadPolicy(key, dir)
			if err != nil {
				return err
			}
			return verify(ctx, args[0], policy, std.Stdout)
		},
	}
}

func sign(ctx context.Context, image, key string) (digest string, err error) {
	k, err := trust.ReadPrivate(key)
	if err != nil {
		return "", err
	}
	l, digest, done, err := described(ctx, image)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, done()) }()
	img, err := l.Image(digest)
	if err != nil {
		return "", err
	}
	if img.Arch == "" {
		return "", command.BadInput(fmt.Errorf("%s: the image has no release description", image), "build and push it again: it is from an older imgbuild")
	}
	envelope, err := trust.Sign(digest, trust.Predicate{Name: img.Name, Version: img.Version, Arch: img.Arch}, k)
	if err != nil {
		return "", err
	}
	blob := registry.Blob{Title: trust.Title, MediaType: trust.MediaType, Content: envelope}
	attached, err := l.Attach(digest, registry.SignatureType, nil, blob)
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(image, "oci:") {
		return digest, l.PushAttached(ctx, attached, image)
	}
	return digest, nil
}

func verify(ctx context.Context, image string, policy *trust.Policy, stdout io.Writer) (err error) {
	ref := image
	if !strings.Contains(image, "://") {
		_, digest, done, err := described(ctx, image)
		if err != nil {
			return err
		}
		if err := done(); err != nil {
			return err
		}
		ref = source(image) + "@" + digest
	}
	im, err := fetch.Open(ctx, ref, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	envelopes, err := im.Envelopes(ctx)
	if err != nil {
		return err
	}
	r := im.Release()
	said, err := policy.VerifyAny(envelopes, im.Digest())
	if err == nil {
		err = said.Matches(&r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", image, err)
	}
	_, err = fmt.Fprintln(stdout, im.Digest(), r.Name, r.Version)
	return err
}

// described opens the layout with an image's manifest and description: the
// image's own, or a temporary one that done removes.
func described(ctx context.Context, image string) (l *registry.Layout, digest string, done func() error, err error) {
	done = func() error { return nil }
	dir, name, isLayout, err := layoutRef(image)
	if err != nil {
		return nil, "", nil, err
	}
	if isLayout {
		if l, err = existing(dir); err != nil {
			return nil, "", nil, err
		}
		h, err := l.Resolve(name)
		return l, h.String(), done, err
	}
	if dir, err = os.MkdirTemp("", "goldsmith-sign-"); err != nil {
		return nil, "", nil, err
	}
	done = func() error { return os.RemoveAll(dir) }
	if l, err = registry.Open(dir); err == nil {
		digest, err = l.PullDescription(ctx, image)
	}
	if err != nil {
		return nil, "", nil, errors.Join(err, done())
	}
	return l, digest, done, nil
}

// source is an image's reference without tag and digest.
func source(image string) string {
	image, _, _ = strings.Cut(image, "@")
	slash := strings.LastIndex(image, "/")
	if i := strings.LastIndex(image, ":"); i > max(slash, len("oci")) {
		return image[:i]
	}
	return image
}
