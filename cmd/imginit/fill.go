package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
)

// Places on the state partition, for the content that images bring for state
// directories.
const (
	filledFile = "filled"       // root hash of the image that all of it is from
	filledPart = "fs/.new-more" // what another image has more, until it is in its place
)

// factory is the content that the image brings for state directories.
type factory struct {
	state string // the state partition
	image string // what filledFile is to say; empty: nothing is ever added
	add   bool   // another image filled the directories
	short bool   // something could not be added
}

// newFactory looks which image filled the state partition last.
func newFactory(state string, hash *rootHash) *factory {
	f := &factory{state: state}
	if hash != nil {
		f.image = hex.EncodeToString(hash[:]) + "\n"
		last, err := readBounded(filepath.Join(state, filledFile))
		f.add = err != nil || string(last) != f.image
	}
	return f
}

// directory fills the state partition's copy of a directory, or adds what this
// image has and the machine has not. That it cannot add is no reason not to
// boot: the next start tries again.
func (f *factory) directory(c *console, path, kept, from string) error {
	filled, err := fill(kept, from)
	switch {
	case err != nil:
		return err
	case filled:
		c.say("%s filled from the image", path)
	case f.add:
		n, err := addMissing(kept, from, filepath.Join(f.state, filledPart))
		if err != nil {
			f.short = true
			c.say("%s: not all that this image has more was added: %v", path, err)
		} else if n > 0 {
			c.say("%s: added %d that this image has more", path, n)
		}
	}
	return nil
}

// done notes that everything of this image is there.
func (f *factory) done(c *console) {
	if !f.add || f.short {
		return
	}
	if err := atomicfile.Write(filepath.Join(f.state, filledFile), []byte(f.image), 0o600); err != nil {
		c.say("not noted on the state partition: %v", err)
	}
}

// fill copies from to the new directory kept, unless that is there already. A
// power cut leaves kept either missing or complete.
func fill(kept, from string) (bool, error) {
	if _, err := os.Lstat(kept); err == nil {
		return false, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	parent := filepath.Dir(kept)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return false, err
	}
	part := filepath.Join(parent, ".new-"+filepath.Base(kept))
	if err := os.RemoveAll(part); err != nil {
		return false, err
	}
	if err := copyTree(from, part); err != nil {
		return false, err
	}
	// Contents must be on the disk before the name is.
	if err := syncAll(parent); err != nil {
		return false, err
	}
	if err := os.Rename(part, kept); err != nil {
		return false, err
	}
	dir, err := os.Open(parent)
	if err != nil {
		return false, err
	}
	defer dir.Close()
	return true, dir.Sync()
}

// addMissing copies what from has and kept has not into kept, and says how many
// files and directories that were, each with all that is in it. What kept has
// stays, whatever it is. New ones wait in the directory part until all of them
// are on the disk: each appears whole or not at all.
func addMissing(kept, from, part string) (int, error) {
	missing, err := lacks(kept, from, "", nil)
	if err != nil || len(missing) == 0 {
		return 0, err
	}
	if err := os.RemoveAll(part); err != nil {
		return 0, err
	}
	if err := os.Mkdir(part, 0o700); err != nil {
		return 0, err
	}
	defer os.RemoveAll(part) // or the next image's does
	c := &copier{links: map[[2]uint64]string{}}
	waiting := func(i int) string { return filepath.Join(part, strconv.Itoa(i)) }
	for i, path := range missing {
		if err := c.copy(filepath.Join(from, path), waiting(i)); err != nil {
			return 0, err
		}
	}
	if err := syncAll(part); err != nil {
		return 0, err
	}
	for i, path := range missing {
		err := os.Rename(waiting(i), filepath.Join(kept, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a socket: it was not copied
			return i, err
		}
	}
	return len(missing), syncAll(kept)
}

// lacks appends the paths below from that kept has not, but none below another.
func lacks(kept, from, path string, missing []string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(from, path))
	if err != nil {
		return missing, err
	}
	for _, e := range entries {
		p := filepath.Join(path, e.Name())
		st, err := os.Lstat(filepath.Join(kept, p))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, p)
		case err != nil:
			return missing, err
		case e.IsDir() && st.IsDir(): // not through a link that the machine has there
			if missing, err = lacks(kept, from, p, missing); err != nil {
				return missing, err
			}
		}
	}
	return missing, nil
}

// syncAll flushes the file system that a directory is on.
func syncAll(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("flush %s: %w", dir, err)
	}
	return nil
}
