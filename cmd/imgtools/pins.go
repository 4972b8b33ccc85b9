package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"goldsmith/internal/command"
	"goldsmith/internal/download"
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

// getPinned is Get, held to what is pinned for the URL. A file that is what is
// pinned is not asked for again, also where the server has another by now or
// cannot be reached; it is replaced only by such a one.
func (c *caller) getPinned(ctx context.Context, g *download.Getter, url, file string) (download.Outcome, error) {
	list, err := c.pins()
	if err != nil {
		return 0, err
	}
	is := sourcerepo.Pin{Type: "url", Location: sourcerepo.Public(url)}
	i := slices.IndexFunc(list, func(p sourcerepo.Pin) bool { return p.Type == is.Type && p.Location == is.Location })
	if i < 0 && list != nil {
		return 0, command.Hint(fmt.Errorf("%s is not pinned", is.Location), "imgbuild lock --update pins it")
	}
	kept := c.pinnedFiles()
	if i >= 0 {
		is.SHA256 = list[i].SHA256
		if sum, err := fileDigest(file); err == nil && sum == is.SHA256 {
			return download.Unchanged, errors.Join(kept.Keep(file, sum), c.fetched(is))
		}
		if ok, err := kept.Give(file, is.SHA256); ok || err != nil {
			return download.Unchanged, errors.Join(err, c.fetched(is))
		}
		g.SHA256, g.Final = is.SHA256, true
	}
	out, err := g.Get(ctx, url, file)
	if err != nil && c.env["DIB_OFFLINE"] != "" && !errors.Is(err, download.ErrNotFound) {
		if fi, stat := os.Stat(file); i < 0 && stat == nil && fi.Mode().IsRegular() && fi.Size() > 0 {
			out, err = download.Unchanged, nil // what is there has to do
		} else {
			return out, command.Missing(fmt.Errorf("%s is not in the cache, and this build is offline (%w)", is.Location, err),
				"build once without --offline (DIB_OFFLINE)")
		}
	}
	if e, ok := errors.AsType[*download.DigestError](err); ok {
		return out, command.Hint(fmt.Errorf("%s is not what is pinned: it has the SHA-256 %s, pinned is %s", is.Location, e.Got, e.Want),
			"find out why it changed; imgbuild lock --update pins what is there now")
	}
	if err != nil || c.env[pinsVariable] == "" && i < 0 {
		return out, err
	}
	if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
		return out, err // a named pipe: the one who read it has it
	}
	if is.SHA256, err = fileDigest(file); err != nil {
		return out, err
	}
	if i >= 0 && is.SHA256 != list[i].SHA256 { // the file was older than the server's, and is another
		g.Force = true
		return c.getPinned(ctx, g, url, file)
	}
	if i >= 0 {
		err = kept.Keep(file, is.SHA256)
	}
	return out, errors.Join(err, c.fetched(is))
}

// pinnedFiles is where the cache keeps what is pinned; nowhere in an image.
func (c *caller) pinnedFiles() sourcerepo.Pinned {
	if c.env["DIB_IMAGE_CACHE"] == "" {
		return ""
	}
	return sourcerepo.Pinned(filepath.Join(c.env["DIB_IMAGE_CACHE"], "pinned"))
}

// fileDigest is the SHA-256 of a regular file, in hexadecimal.
func fileDigest(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return "", errors.Join(err, fmt.Errorf("%s: not a regular file", path))
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
