package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"goldsmith/internal/command"
	"goldsmith/internal/sourcerepo"
)

// What a build tells hooks on the host of pins: a directory with what is
// pinned, and one for what was fetched. Either may be empty.
const (
	lockVariable = "GOLDSMITH_LOCK"
	pinsVariable = "GOLDSMITH_PINS"
	sourcesFile  = "sources.json"  // in the first: a list
	fetchedFile  = "sources.jsonl" // in the second: one pin a line
)

// pins reads what is pinned; nil where nothing is.
func (c *caller) pins() ([]sourcerepo.Pin, error) {
	dir := c.env[lockVariable]
	if dir == "" {
		return nil, nil
	}
	text, err := os.ReadFile(filepath.Join(dir, sourcesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := []sourcerepo.Pin{}
	return list, json.Unmarshal(text, &list)
}

// fetched notes what a source was.
func (c *caller) fetched(p sourcerepo.Pin) error {
	dir := c.env[pinsVariable]
	if dir == "" {
		return nil
	}
	line, err := json.Marshal(p)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, fetchedFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// checkURL holds a downloaded file to what is pinned for its URL.
func (c *caller) checkURL(url, file string) error {
	list, err := c.pins()
	if err != nil || list == nil && c.env[pinsVariable] == "" {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	is := sourcerepo.Pin{Type: "url", Location: sourcerepo.Public(url), SHA256: hex.EncodeToString(h.Sum(nil))}
	for _, p := range list {
		if p.Type != is.Type || p.Location != is.Location {
			continue
		}
		if p.SHA256 == is.SHA256 {
			return c.fetched(is)
		}
		return command.Hint(fmt.Errorf("%s is not what is pinned: it has the SHA-256 %s, pinned is %s", is.Location, is.SHA256, p.SHA256),
			"find out why it changed; imgbuild lock --update pins what is there now")
	}
	if list != nil {
		return command.Hint(fmt.Errorf("%s is not pinned", is.Location), "imgbuild lock --update pins it")
	}
	return c.fetched(is)
}
