package trust

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"goldsmith/internal/bootentry"
	"goldsmith/internal/command"
)

// Dir is where a machine's root has its policy.
const Dir = "/usr/share/goldsmith/trust"

// Files of a policy beside its keys, which are *.pub.
const (
	revokedFile = "revoked"
	minimumFile = "minimum-version"
)

const (
	maxKeys = 64
	maxList = 1 << 20 // bytes of the list of what is revoked
)

var keyForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Policy says whose signatures count.
type Policy struct {
	keys    map[string]*PublicKey // by ID
	revoked map[string]bool       // key IDs and image digests
	minimum string                // version; empty allows all
}

// NewPolicy trusts the keys, with nothing revoked.
func NewPolicy(keys ...*PublicKey) *Policy {
	p := &Policy{keys: map[string]*PublicKey{}, revoked: map[string]bool{}}
	for _, k := range keys {
		p.keys[k.ID] = k
	}
	return p
}

// Minimum is the oldest version that is allowed; empty means that all are.
func (p *Policy) Minimum() string { return p.minimum }

// Revoked tells whether a key ID or an image digest is revoked.
func (p *Policy) Revoked(id string) bool { return p.revoked[id] }

// RevokesImages tells whether any image is revoked.
func (p *Policy) RevokesImages() bool {
	for id := range p.revoked {
		if digestForm.MatchString(id) {
			return true
		}
	}
	return false
}

// Load reads the policy in dir:
//
//	*.pub            a trusted public key each, in PEM
//	revoked          lines with a key ID or an image digest; # starts a comment
//	minimum-version  one version, the oldest that is allowed
//
// The lists may be absent. A policy that cannot be read as a whole is an error,
// so that a damaged one trusts nobody; so is one without keys. Symbolic links
// that leave dir are not followed.
func Load(dir string) (*Policy, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, command.Missing(fmt.Errorf("trusted keys: %w", err),
			"the image has none: put public keys into it as "+Dir+"/NAME.pub")
	}
	defer root.Close()
	names, err := list(root)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	p := NewPolicy()
	for _, name := range names {
		if err := p.read(root, name); err != nil {
			return nil, command.BadInput(fmt.Errorf("%s: %w", filepath.Join(dir, name), err), "")
		}
	}
	if len(p.keys) == 0 {
		return nil, command.Missing(fmt.Errorf("%s: there is no trusted key", dir), "put public keys there as NAME.pub")
	}
	return p, nil
}

// list returns the names of a policy's files.
func list(root *os.Root) ([]string, error) {
	d, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(4*maxKeys + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(entries) > 4*maxKeys {
		return nil, fmt.Errorf("more than %d files", 4*maxKeys)
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); strings.HasSuffix(n, ".pub") || n == revokedFile || n == minimumFile {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (p *Policy) read(root *os.Root, name string) error {
	text, err := content(root, name)
	if err != nil {
		return err
	}
	switch name {
	case revokedFile:
		return p.revoke(string(text))
	case minimumFile:
		p.minimum = strings.TrimSpace(string(text))
		if !bootentry.IsVersion(p.minimum) {
			return fmt.Errorf("%.80q is no version", p.minimum)
		}
		return nil
	}
	k, err := ParsePublic(text)
	if err != nil {
		return err
	}
	p.keys[k.ID] = k
	if len(p.keys) > maxKeys {
		return fmt.Errorf("more than %d keys", maxKeys)
	}
	return nil
}

func (p *Policy) revoke(text string) error {
	n := 0
	for line := range strings.Lines(text) {
		n++
		line, _, _ = strings.Cut(line, "#")
		switch line = strings.TrimSpace(line); {
		case line == "":
		case keyForm.MatchString(line), digestForm.MatchString(line):
			p.revoked[line] = true
		default:
			return fmt.Errorf("line %d: %.80q is neither a key ID nor a digest", n, line)
		}
	}
	return nil
}

// content reads a regular file. Opening does not wait, as it would for a pipe.
func content(root *os.Root, name string) ([]byte, error) {
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		if pe, ok := errors.AsType[*fs.PathError](err); ok {
			err = pe.Err // the caller names the file
		}
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err == nil && len(b) > maxList {
		err = fmt.Errorf("more than %d bytes", maxList)
	}
	return b, err
}
