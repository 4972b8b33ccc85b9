package promotion

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"goldsmith/internal/command"
	"goldsmith/internal/trust"
	"goldsmith/pipeline"
)

// Policy is a channel with the keys that it names.
type Policy struct {
	*pipeline.Channel
	Hash string // "sha256:…" of what counts of it: the channel and whose keys

	keys map[string]*trust.PublicKey // by the entries of signed-by
	key  *trust.PrivateKey           // that signs promotions, and what machines ask for; nil: none does
	word *trust.PrivateKey           // that signs what is said of them without key; nil: none does
}

// NewPolicy reads the keys of a channel, whose files are relative to dir, that
// of the file with the channel.
func NewPolicy(c *pipeline.Channel, dir string) (*Policy, error) {
	p := &Policy{Channel: c, keys: map[string]*trust.PublicKey{}}
	var ids []string
	for _, entry := range c.SignedBy {
		text, err := readKey(dir, entry)
		if err != nil {
			return nil, bad(c, "signed-by", entry, err)
		}
		k, err := trust.ParsePublic(text)
		if err != nil {
			return nil, bad(c, "signed-by", entry, err)
		}
		p.keys[entry] = k
		ids = append(ids, k.ID)
	}
	if c.Sign != "" {
		text, err := readKey(dir, c.Sign)
		if err == nil {
			p.key, err = trust.ParsePrivate(text)
		}
		if err != nil {
			return nil, bad(c, "sign", c.Sign, err)
		}
	}
	slices.Sort(ids)
	text, err := json.Marshal(struct {
		Channel *pipeline.Channel `json:"channel"`
		Keys    []string          `json:"keys,omitempty"`
	}{c, ids})
	sum := sha256.Sum256(text)
	p.Hash = "sha256:" + hex.EncodeToString(sum[:])
	return p, err
}

// SignWith takes another key than the channel's for promotions.
func (p *Policy) SignWith(k *trust.PrivateKey) { p.key = k }

// AttestWith has a key sign what is said of promotions where the channel has none:
// that of evidence, which machines do not take for a release's. Nil is none.
func (p *Policy) AttestWith(k *trust.PrivateKey) { p.word = k }

func bad(c *pipeline.Channel, field, entry string, err error) error {
	return command.BadInput(fmt.Errorf("channel %s: %s: %s: %w", c.Name, field, entry, err), "'imgbuild keys release' makes keys")
}

// readKey reads a small regular file.
func readKey(dir, name string) ([]byte, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("no such file")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, errors.New("not a regular file"))
	}
	return io.ReadAll(io.LimitReader(f, trust.MaxKey+1))
}
