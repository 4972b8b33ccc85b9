package sourcerepo

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"goldsmith/internal/command"
)

// Pin says what a repository was when it was fetched.
type Pin struct {
	Name     string `json:"name"`
	Type     string `json:"type"`     // git, tar or file
	Location string `json:"location"` // without user and password
	Ref      string `json:"ref,omitempty"`
	Commit   string `json:"commit,omitempty"` // of git, hexadecimal
	SHA256   string `json:"sha256,omitempty"` // of the file or tarball, hexadecimal
}

// pin is what a repository must be; nil where nothing is pinned.
func (f *Fetcher) pin(r *Repository) (*Pin, error) {
	if f.Pins == nil {
		return nil, nil
	}
	if r.Ref == "*" && r.Type == "git" {
		return nil, command.BadInput(fmt.Errorf("git %s: all branches and tags cannot be pinned", Public(r.Location)), "name one as the fifth word")
	}
	for i := range f.Pins {
		p := &f.Pins[i]
		if p.Name == r.Name && p.Type == r.Type && p.Location == Public(r.Location) && p.Ref == r.Ref {
			return p, nil
		}
	}
	return nil, command.BadInput(fmt.Errorf("%s %s is not pinned", r.Type, Public(r.Location)), "imgbuild lock --update pins it")
}

// pinned tells what was fetched.
func (f *Fetcher) pinned(r *Repository, commit, sum string) error {
	if f.Record == nil {
		return nil
	}
	return f.Record(Pin{r.Name, r.Type, Public(r.Location), r.Ref, commit, sum})
}

// verify compares a file with what is pinned, and tells what it is.
func (f *Fetcher) verify(r *Repository, file string) error {
	if f.Pins == nil && f.Record == nil {
		return nil
	}
	pin, err := f.pin(r)
	if err != nil {
		return err
	}
	sum, err := fileSum(file)
	if err != nil {
		return err
	}
	if pin != nil && pin.SHA256 != sum {
		return notPinned(r, sum, pin.SHA256)
	}
	return f.pinned(r, "", sum)
}

func notPinned(r *Repository, is, want string) error {
	return command.BadInput(fmt.Errorf("%s is not what is pinned: it has the SHA-256 %s, pinned is %s", Public(r.Location), is, want),
		"find out why it changed; imgbuild lock --update pins what is there now")
}

func fileSum(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}
