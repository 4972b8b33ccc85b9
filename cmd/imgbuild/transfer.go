package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/imagebuild"
	"goldsmith/internal/registry"
)

func pushCommand() *command.Command {
	return &command.Command{
		Name:  "push",
		Args:  "IMAGE REFERENCE",
		Short: "copy an image to a registry or an image layout",
		Long: `
IMAGE is the NAME.manifest.json of a build with a raw output, or
oci:DIRECTORY:TAG, an image in an OCI image layout. REFERENCE is
HOST/REPOSITORY:TAG in a registry, HOST/REPOSITORY for the digest alone, or
oci:DIRECTORY:TAG. The image arrives as one OCI artifact, and its digest is
printed: the same disk has the same digest everywhere.

Credentials are those of docker, podman or skopeo logins.`,
		Example: `imgbuild push out/demo.manifest.json registry.example/images/demo:candidate
imgbuild push oci:.goldsmith/oci:candidate registry.example/images/demo:candidate`,
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 2 {
				return command.Usage("push needs an image and where it goes", "imgbuild push out/demo.manifest.json oci:images:demo")
			}
			digest, err := push(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(io.Stdout, digest)
			return err
		},
	}
}

func pullCommand() *command.Command {
	var out string
	return &command.Command{
		Name:  "pull",
		Args:  "REFERENCE",
		Short: "fetch an image from a registry or an image layout",
		Long: `
REFERENCE is HOST/REPOSITORY:TAG or HOST/REPOSITORY@DIGEST in a registry, or
oci:DIRECTORY:TAG. The image's disk is written to NAME.raw and its digest
printed. The file appears when its digest has been verified.`,
		Example: `imgbuild pull -o images registry.example/images/demo:candidate`,
		Flags: func(fs *flag.FlagSet) {
			fs.StringVar(&out, "o", ".", "write NAME.raw into `directory`")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("pull needs one reference", "imgbuild pull registry.example/images/demo:candidate")
			}
			digest, err := pull(ctx, args[0], out)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(io.Stdout, digest)
			return err
		},
	}
}

func push(ctx context.Context, image, ref string) (digest string, err error) {
	dir, tag, toLayout, err := layoutRef(ref)
	if err != nil {
		return "", err
	}
	from, name, fromLayout, err := layoutRef(image)
	if err != nil {
		return "", err
	}
	if fromLayout && toLayout {
		return "", command.Usage("both are image layouts", "skopeo copy "+image+" "+ref)
	}
	if fromLayout {
		l, err := existing(from)
		if err != nil {
			return "", err
		}
		return pushFrom(ctx, l, name, ref)
	}
	if !toLayout {
		if dir, err = os.MkdirTemp("", "goldsmith-push-"); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	l, err := registry.Open(dir)
	if err != nil {
		return "", err
	}
	if digest, err = store(ctx, l, image); err != nil {
		return "", err
	}
	if toLayout {
		return digest, l.Tag(digest, tag)
	}
	return pushFrom(ctx, l, digest, ref)
}

func pushFrom(ctx context.Context, l *registry.Layout, name, ref string) (string, error) {
	h, err := l.Resolve(name)
	if err != nil {
		return "", err
	}
	return h.String(), l.Push(ctx, h.String(), ref)
}

// store puts the image of a build into a layout.
func store(ctx context.Context, l *registry.Layout, manifest string) (string, error) {
	m, err := imagebuild.ReadManifest(manifest)
	if err != nil {
		return "", err
	}
	raw := m.Output("raw")
	if raw == nil {
		return "", command.BadInput(fmt.Errorf("%s: the build wrote no raw disk", manifest), "add raw to the definition's outputs")
	}
	img := m.Image(raw)
	if err := img.Check(); err != nil {
		return "", command.BadInput(fmt.Errorf("%s: %w", manifest, err), "build the image again: another imgbuild has written this")
	}
	digest, _, err := l.PutImage(ctx, raw.Path, img)
	return digest, err
}

func pull(ctx context.Context, ref, out string) (digest string, err error) {
	dir, name, isLayout, err := layoutRef(ref)
	if err != nil {
		return "", err
	}
	var l *registry.Layout
	if isLayout {
		l, err = existing(dir)
	} else {
		if dir, err = os.MkdirTemp("", "goldsmith-pull-"); err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		l, err = registry.Open(dir)
	}
	if err != nil {
		return "", err
	}
	if !isLayout {
		if name, err = l.Pull(ctx, ref); err != nil {
			return "", err
		}
	}
	img, err := l.Image(name)
	if err != nil {
		return "", err
	}
	// The name is whoever pushed it's; it must not lead out of the directory.
	if img.Name == "" || filepath.Base(img.Name) != img.Name || strings.HasPrefix(img.Name, ".") {
		return "", command.BadInput(fmt.Errorf("%s: the image calls itself %q", ref, img.Name), "")
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	return img.Digest, l.Extract(ctx, img.Digest, filepath.Join(out, img.Name+".raw"))
}

// layoutRef takes oci:DIRECTORY:NAME apart, or oci:DIRECTORY@DIGEST.
func layoutRef(ref string) (dir, name string, ok bool, err error) {
	rest, ok := strings.CutPrefix(ref, "oci:")
	if !ok {
		return "", "", false, nil
	}
	if i := strings.LastIndex(rest, "@sha256:"); i > 0 {
		return rest[:i], rest[i+1:], true, nil
	}
	i := strings.LastIndex(rest, ":")
	if i <= 0 || i == len(rest)-1 {
		return "", "", false, command.Usage(ref+": not a layout's image", "write oci:DIRECTORY:TAG")
	}
	return rest[:i], rest[i+1:], true, nil
}

// existing opens a layout that must be there.
func existing(dir string) (*registry.Layout, error) {
	if _, err := os.Stat(filepath.Join(dir, "oci-layout")); err != nil {
		return nil, command.BadInput(fmt.Errorf("%s: not an OCI image layout", dir), "")
	}
	return registry.Open(dir)
}
