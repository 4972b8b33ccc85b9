package imagebuild

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/command"
	"goldsmith/internal/sparse"
	"goldsmith/internal/tarball"
	"goldsmith/internal/tree"
)

// CompatOutputs turns diskimage-builder's -t types into outputs of ours, each
// once. Types that are not its own are qemu-img's to know. tgz makes the tar
// file too where that is asked for; the original then deletes it.
func CompatOutputs(types []string, compress bool, qemuOptions string) ([]string, error) {
	var out []string
	seen := map[string]bool{}
	for _, t := range types {
		o := t
		switch {
		case t == "qcow2" && qemuOptions == "":
			if o = "qcow2-none"; compress {
				o = "qcow2-zlib"
			}
		case t == "qcow2" && compress:
			o = convertPrefix + "-c " + t
		case t == "tar", t == "tgz", t == "squashfs", t == "vhd", t == "raw", t == "aci", t == "docker":
		case !nameRE.MatchString(t):
			return nil, command.BadInput(fmt.Errorf("image type %q: not a type", t), "-t qcow2,tar,tgz,squashfs,vhd,docker,aci,raw")
		default:
			o = convertPrefix + t
		}
		if !seen[o] {
			seen[o] = true
			out = append(out, o)
		}
	}
	return out, nil
}

// compatFiles are the outputs that a build really makes: none for a ramdisk,
// whose hooks bring out what they made, and no disk for the element
// no-final-image.
func compatFiles(c *Compat, outputs, elements []string) []string {
	switch {
	case c.NoImage:
		return nil
	case slices.Contains(elements, "no-final-image"):
		return slices.DeleteFunc(slices.Clone(outputs), isDisk)
	}
	return outputs
}

// checkConversions asks qemu-img which types it knows, before anything is
// built.
func checkConversions(outputs []string) error {
	var known []string
	for _, o := range outputs {
		words, ok := strings.CutPrefix(o, convertPrefix)
		if !ok {
			continue
		}
		if known == nil {
			out, err := command.Exec{Args: []string{qemuImg, "--help"}}.Output(context.Background())
			if err != nil {
				return err
			}
			_, list, _ := strings.Cut(string(out), "Supported formats:")
			known = strings.Fields(list)
		}
		kind := words[strings.LastIndexByte(words, ' ')+1:]
		if !slices.Contains(known, kind) {
			return command.BadInput(fmt.Errorf("image type %q: neither diskimage-builder's nor qemu-img's", kind),
				"-t qcow2,tar,tgz,squashfs,vhd,docker,aci,raw, or what 'qemu-img --help' lists")
		}
	}
	return nil
}

// convertPrefix begins the names of outputs that qemu-img makes of the disk.
const convertPrefix = "qemu-img "

// formatOf is the format of a name in a definition, or of diskimage-builder's
// commands.
func formatOf(name string) format {
	if words, ok := strings.CutPrefix(name, convertPrefix); ok {
		args := strings.Fields(words)
		ending := args[len(args)-1]
		return format{ending: ending, disk: true, programs: []string{qemuImg}, write: convert(args[:len(args)-1], ending)}
	}
	switch name {
	case "aci":
		return format{ending: "aci", write: writeACI}
	case "docker":
		return format{ending: "docker.tar", programs: []string{"docker"}, write: writeDocker}
	}
	return formats[name]
}

const qemuImg = "qemu-img"

// convert makes an output of the disk through qemu-img. It writes beside the
// output, since it opens files by name.
func convert(flags []string, kind string) func(context.Context, *os.File, *source) error {
	return func(ctx context.Context, f *os.File, src *source) error {
		raw, err := src.disk(ctx)
		if err != nil {
			return err
		}
		made := filepath.Join(src.build.work.dir, "converted")
		args := append([]string{qemuImg, "convert", "-f", "raw", "-O", kind}, flags...)
		if c := src.build.opts.Compat; c != nil && c.QemuImgOptions != "" {
			args = append(args, "-o", c.QemuImgOptions)
		}
		err = command.Exec{Args: append(args, raw.Name(), made), Log: src.build.log, Remedy: "Debian packages it as qemu-utils"}.Run(ctx)
		if err != nil {
			return err
		}
		in, err := os.Open(made)
		if err != nil {
			return err
		}
		defer os.Remove(made)
		defer in.Close()
		r, err := sparse.NewReader(in)
		if err != nil {
			return err
		}
		_, err = sparse.Copy(f, command.Reader(ctx, r))
		return err
	}
}

// writeACI writes an App Container Image: the tree below rootfs, and the file
// that ACI_MANIFEST names as the manifest.
func writeACI(ctx context.Context, f *os.File, src *source) error {
	moved := tree.New()
	for _, e := range src.tree.All() {
		c := *e
		c.Path = filepath.Join("rootfs", e.Path)
		if e.LinkTo != "" {
			c.LinkTo = filepath.Join("rootfs", e.LinkTo)
		}
		moved.Add(&c)
	}
	if name := src.build.settings(rootPhase)["ACI_MANIFEST"]; name != "" {
		content, err := os.ReadFile(name)
		if err != nil {
			return command.BadInput(fmt.Errorf("ACI_MANIFEST: %w", err), "")
		}
		moved.AddFile("manifest", 0o644, content)
	} else {
		src.build.progress.Info("warning: ACI_MANIFEST names no manifest, without which the image cannot be used")
	}
	return tarball.Write(ctx, f, moved)
}

// writeDocker gives the tree to docker under the name --docker-target, and
// keeps what it gave.
func writeDocker(ctx context.Context, f *os.File, src *source) error {
	if err := tarball.Write(ctx, f, src.tree); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return command.Exec{
		Args: []string{"docker", "import", "-", src.build.opts.Compat.DockerTarget}, Stdin: f, Log: src.build.log,
	}.Run(ctx)
}

// compatEnding is what the original calls the files of a format.
func compatEnding(ending string) string {
	if ending == "squashfs" {
		return "squash"
	}
	return ending
}

// keepOld renames an output of an earlier build, and its checksums, to the
// time of the call, as the original does unless OVERWRITE_OLD_IMAGE is set.
func (c *Compat) keepOld(path string, now time.Time) error {
	if v := c.Environ["OVERWRITE_OLD_IMAGE"]; v != "" && v != "0" {
		return nil
	}
	ext := filepath.Ext(path)
	switch ext {
	case ".tar", ".aci", ".squash":
		return nil
	}
	if fi, err := os.Lstat(path); err != nil || !fi.Mode().IsRegular() {
		return nil
	}
	old := strings.TrimSuffix(path, ext) + "-" + now.Format("2006.01.02-15.04.05") + ext
	if err := os.Rename(path, old); err != nil {
		return err
	}
	for _, sum := range []string{".md5", ".sha256"} {
		if err := os.Rename(path+sum, old+sum); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// writeChecksums writes what --checksum asks for beside an output, in the form
// of md5sum(1) and sha256sum(1).
func (c *Compat) writeChecksums(files *pending, out *Output, f *os.File) error {
	switch out.Format {
	case "tar", "aci", "squashfs":
		return nil
	}
	kinds := strings.Split(c.Environ["DIB_CHECKSUM"], ",")
	for _, kind := range []string{"md5", "sha256"} {
		wanted := false
		for _, k := range kinds {
			wanted = wanted || k == "1" || k == kind
		}
		if !wanted {
			continue
		}
		sum := out.SHA256
		if kind == "md5" {
			var err error
			if sum, err = fileSum(md5.New(), f); err != nil {
				return err
			}
		}
		beside, err := files.create(out.Path + "." + kind)
		if err != nil {
			return err
		}
		name := filepath.Join(filepath.Dir(c.ImageName), filepath.Base(out.Path)) // as the caller gave it
		if _, err := fmt.Fprintf(beside, "%s  %s\n", sum, name); err != nil {
			return explainFull(out.Path, err)
		}
	}
	return nil
}

func fileSum(h hash.Hash, f *os.File) (string, error) {
	r, err := sparse.NewReader(f)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(h, r)
	return fmt.Sprintf("%x", h.Sum(nil)), err
}
