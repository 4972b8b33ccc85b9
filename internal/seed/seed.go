// Package seed makes the small disk that tells a machine who it is at its
// first boot: a FAT volume labelled CIDATA, as the NoCloud data source of
// cloud-init defines it.
//
// It holds meta-data and user-data in the form that cloud-init and collectcfg
// read, and goldsmith/metadata.json for collectcfg alone. Secrets may be in
// it: the file is readable by its owner only.
package seed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"

	"gopkg.in/yaml.v3"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/fat"
	"goldsmith/internal/tree"
)

// Label is the volume label by which machines find the disk.
const Label = "CIDATA"

// Seed is what one machine is told.
type Seed struct {
	// InstanceID names this installation of the machine; a changed one makes
	// cloud-init treat the next boot as the first. It must not be empty.
	InstanceID string
	Hostname   string // must not be empty
	// AuthorizedKeys are lines of authorized_keys(5) for the first user.
	AuthorizedKeys []string
	// Metadata becomes goldsmith/metadata.json; nil leaves the file out.
	Metadata any
}

type metaData struct {
	InstanceID    string   `yaml:"instance-id"`
	LocalHostname string   `yaml:"local-hostname"`
	PublicKeys    []string `yaml:"public-keys,omitempty"`
}

type userData struct {
	Hostname          string   `yaml:"hostname"`
	SSHAuthorizedKeys []string `yaml:"ssh_authorized_keys,omitempty"`
}

// Write makes the disk image at path, mode 0600, whole or not at all. The
// same seed gives the same bytes.
func Write(path string, s Seed) error {
	t, err := s.tree()
	if err != nil {
		return fmt.Errorf("seed %s: %w", path, err)
	}
	f, err := atomicfile.Create(path, 0o600)
	if err != nil {
		return err
	}
	defer f.Abort()
	o := fat.Options{Label: Label, VolumeID: crc32.ChecksumIEEE([]byte(s.InstanceID))}
	if _, err := fat.Write(f, t, o); err != nil {
		return fmt.Errorf("seed %s: %w", path, err)
	}
	return f.Commit()
}

func (s Seed) tree() (*tree.Tree, error) {
	if s.InstanceID == "" || s.Hostname == "" {
		return nil, errors.New("instance id and host name must not be empty")
	}
	var keys []string
	for _, k := range s.AuthorizedKeys {
		k = strings.TrimSpace(k)
		if k == "" || strings.ContainsAny(k, "\n\r") {
			return nil, fmt.Errorf("authorized key %q: not one line", k)
		}
		keys = append(keys, k)
	}
	t := tree.New()
	meta, err := marshal(metaData{s.InstanceID, s.Hostname, keys})
	if err != nil {
		return nil, err
	}
	t.AddFile("meta-data", 0o600, meta)
	user, err := marshal(userData{s.Hostname, keys})
	if err != nil {
		return nil, err
	}
	t.AddFile("user-data", 0o600, append([]byte("#cloud-config\n"), user...))
	if s.Metadata != nil {
		b, err := json.MarshalIndent(s.Metadata, "", "  ")
		if err != nil {
			return nil, fmt.Errorf("metadata: %w", err)
		}
		t.AddFile("goldsmith/metadata.json", 0o600, append(b, '\n'))
	}
	return t, nil
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}
