package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"gopkg.in/yaml.v3"

	"goldsmith/internal/metadata"
)

// NoCloud reads a seed: a small file system labelled CIDATA that whoever
// deploys the machine attaches to it, on a virtual disk or a configuration
// partition. It holds meta-data and user-data, as cloud-init has them, and
// goldsmith/metadata.json, the machine's metadata.
type NoCloud struct {
	// Seed is a directory that holds the files; empty means to look for a
	// labelled block device.
	Seed string

	last *seed // what the device held; it is not mounted again while it looks the same
}

// seed is what was read from a device.
type seed struct {
	device fingerprint
	docs   []Document
}

// Collect delivers one document, "nocloud": the object of
// goldsmith/metadata.json, with instance-id and local-hostname from meta-data
// where it has none. user-data is kept beside it.
func (n *NoCloud) Collect(ctx context.Context) ([]Document, error) {
	if n.Seed != "" {
		docs, err := readSeed(n.Seed)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, unavailable{err}
		}
		return docs, err
	}
	dev, err := findSeed("/sys/class/block", "/dev")
	if err != nil {
		return nil, err
	}
	if n.last != nil && n.last.device == dev {
		return n.last.docs, nil
	}
	var docs []Document
	err = withMounted(ctx, dev, func(dir string) (err error) {
		docs, err = readSeed(dir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dev.path, err)
	}
	n.last = &seed{dev, docs}
	return docs, nil
}

// readSeed reads the files of a seed. Nothing on it is trusted: only regular
// files are read, and no symbolic link is followed.
func readSeed(path string) ([]Document, error) {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(dir)
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	text := map[string][]byte{}
	for _, name := range []string{"meta-data", "user-data", "goldsmith/metadata.json"} {
		data, err := readBounded(dir, name, resolve)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			text[name] = data
		}
	}
	if len(text) == 0 {
		return nil, unavailable{fmt.Errorf("%s: neither meta-data nor goldsmith/metadata.json", path)}
	}
	d := seedDocument(text["meta-data"], text["goldsmith/metadata.json"])
	if data, ok := text["user-data"]; ok {
		d.Keep = map[string][]byte{"nocloud.user-data": data}
	}
	return []Document{d}, nil
}

const seedName = "nocloud"

// seedDocument makes the document of the two files, either of which may be
// missing (nil). Metadata that is no JSON object is passed on as it is.
func seedDocument(metaData, metadataJSON []byte) Document {
	doc := &metadata.Object{}
	if metadataJSON != nil {
		d := document(seedName, metadataJSON)
		o, ok := d.Value.(*metadata.Object)
		if !ok {
			return d
		}
		doc = metadata.Merge(o)
	}
	d := Document{Name: seedName}
	facts, err := parseMetaData(metaData)
	if err != nil {
		d.Note = fmt.Sprintf("meta-data: %v; going on without it", err)
	}
	for _, key := range []string{"instance-id", "local-hostname"} {
		if v, ok := facts[key]; ok {
			if _, there := doc.Get(key); !there {
				doc.Set(key, v)
			}
		}
	}
	d.Value = doc
	return d
}

// parseMetaData returns the scalars at the top of a meta-data file as text.
func parseMetaData(data []byte) (map[string]string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	facts := map[string]string{}
	if doc.Kind == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return facts, nil
	}
	m := doc.Content[0]
	for i := 0; i+1 < len(m.Content); i += 2 {
		if v := m.Content[i+1]; v.Kind == yaml.ScalarNode && v.Tag != "!!null" {
			facts[m.Content[i].Value] = v.Value
		}
	}
	return facts, nil
}

// mountBase holds the directory that a seed is mounted on.
var mountBase = "/run"

// withMounted mounts the device where nobody else can look, read-only, calls
// use and unmounts it.
func withMounted(ctx context.Context, dev fingerprint, use func(dir string) error) (err error) {
	dir, err := os.MkdirTemp(mountBase, "collectcfg-seed-*") // mode 0700
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mountReadOnly(ctx, dev.path, dir, dev.fsType); err != nil {
		return fmt.Errorf("mount %s: %w", dev.fsType, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)) }()
	return use(dir)
}
