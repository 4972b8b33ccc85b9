package collectcfg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

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

	devices blockDevices
	last    *metadata.Object // what was read last
}

// seedLabel is the label of a seed, in any mix of cases.
const seedLabel = "cidata"

// Notify wakes when a block device or a file of the directory changes.
func (n *NoCloud) Notify(ctx context.Context, wake func()) error {
	if n.Seed == "" {
		return n.devices.notify(ctx, wake)
	}
	return watch(ctx, []string{n.Seed, n.Seed + "/goldsmith", n.Seed + "/goldsmith/metadata.json"}, wake)
}

// Collect delivers one document, "nocloud": the object of
// goldsmith/metadata.json, with instance-id and local-hostname from meta-data
// where it has none. user-data is kept beside it.
func (n *NoCloud) Collect(context.Context) ([]Document, error) {
	var docs []Document
	var err error
	if n.Seed != "" {
		docs, err = readSeedDir(n.Seed)
	} else {
		err = n.devices.with(seedLabel, func(path string, v volume) (err error) {
			docs, err = readSeed(path, func(name string) ([]byte, error) { return v.ReadFile(name, maxFile) })
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	n.last, _ = docs[0].Value.(*metadata.Object)
	return docs, nil
}

// readSeedDir reads a seed that is a directory. Nothing in it is trusted: only
// regular files are read, and no symbolic link is followed.
func readSeedDir(path string) ([]Document, error) {
	dir, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		err = &fs.PathError{Op: "open", Path: path, Err: err}
		if errors.Is(err, fs.ErrNotExist) {
			err = unavailable{err}
		}
		return nil, err
	}
	defer unix.Close(dir)
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	return readSeed(path, func(name string) ([]byte, error) { return readBounded(dir, name, resolve) })
}

// readSeed makes the document of a seed's files.
func readSeed(path string, read func(name string) ([]byte, error)) ([]Document, error) {
	text := map[string][]byte{}
	for _, name := range []string{"meta-data", "user-data", "goldsmith/metadata.json"} {
		data, err := read(name)
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
			setMissing(doc, key, v)
		}
	}
	d.Value = doc
	return d
}

// setMissing gives a key a value if it has none.
func setMissing(doc *metadata.Object, key string, value any) {
	if _, there := doc.Get(key); !there {
		doc.Set(key, value)
	}
}

// maxMetaData bounds a meta-data file, in bytes.
const maxMetaData = 1 << 20

// parseMetaData returns the scalars at the top of a meta-data file as text.
func parseMetaData(data []byte) (map[string]string, error) {
	if len(data) > maxMetaData {
		return nil, fmt.Errorf("larger than %d MiB", maxMetaData>>20)
	}
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
