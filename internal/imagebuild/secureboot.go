package imagebuild

import (
	"fmt"
	"os"
	"path/filepath"

	"goldsmith/internal/command"
	"goldsmith/internal/disk"
	"goldsmith/internal/secureboot"
	"goldsmith/internal/yamlfile"
)

// SecureBoot says what firmware's Secure Boot finds in an image. Paths are
// relative to the definition. The key reaches neither the image nor anything
// beside it.
type SecureBoot struct {
	Key         string // PEM file: RSA
	Certificate string // PEM file: the key's
	// Enroll is a directory with PK.auth, KEK.auth and db.auth, for firmware
	// that has no keys yet; empty means that machines are taught by other means.
	Enroll string
}

// enrolled are the files of SecureBoot.Enroll.
var enrolled = []string{secureboot.PK + ".auth", secureboot.KEK + ".auth", secureboot.DB + ".auth"}

// maxKeyFile bounds a key, a certificate or a file to enrol, in bytes.
const maxKeyFile = 64 << 10

// checkSecureBoot makes the paths absolute: the file is not asked again where
// it lay.
func (d *Definition) checkSecureBoot(f *yamlfile.File) error {
	if d.SecureBoot == nil {
		return nil
	}
	dir, err := filepath.Abs(filepath.Dir(f.Path))
	if err != nil {
		return err
	}
	for _, p := range []struct {
		key  string
		path *string
	}{{"key", &d.SecureBoot.Key}, {"certificate", &d.SecureBoot.Certificate}, {"enroll", &d.SecureBoot.Enroll}} {
		switch {
		case *p.path == "" && p.key != "enroll":
			return f.Errorf([]any{"secure-boot"}, "secure-boot: %s is missing", p.key)
		case *p.path != "" && !filepath.IsAbs(*p.path):
			*p.path = filepath.Join(dir, *p.path)
		}
	}
	return nil
}

// files reads what the definition names: all of it, by path.
func (s *SecureBoot) files() (map[string][]byte, error) {
	paths := []string{s.Key, s.Certificate}
	if s.Enroll != "" {
		for _, name := range enrolled {
			paths = append(paths, filepath.Join(s.Enroll, name))
		}
	}
	files := map[string][]byte{}
	for _, path := range paths {
		fi, err := os.Stat(path)
		if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxKeyFile) {
			err = fmt.Errorf("%s: not a file of a key", path)
		}
		if err == nil {
			files[path], err = os.ReadFile(path)
		}
		if err != nil {
			err = fmt.Errorf("secure-boot: %w", err)
			return nil, command.BadInput(err, "'imgbuild keys secure-boot DIRECTORY' makes keys")
		}
	}
	return files, nil
}

// addTo completes what disks hold.
func (s *SecureBoot) addTo(c *disk.Config) error {
	if s == nil {
		return nil
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	if c.Signer, err = secureboot.NewSigner(files[s.Key], files[s.Certificate]); err != nil {
		return command.BadInput(fmt.Errorf("secure-boot: %s, %s: %w", s.Key, s.Certificate, err), "")
	}
	if s.Enroll != "" {
		c.Enroll = map[string][]byte{}
		for _, name := range enrolled {
			c.Enroll[name] = files[filepath.Join(s.Enroll, name)]
		}
	}
	return nil
}

// sum is a digest of everything that it puts into outputs, and of the key.
func (s *SecureBoot) sum() (string, error) {
	if s == nil {
		return "", nil
	}
	files, err := s.files()
	if err != nil {
		return "", err
	}
	all := sum(files[s.Key]) + sum(files[s.Certificate])
	if s.Enroll != "" {
		for _, name := range enrolled {
			all += sum(files[filepath.Join(s.Enroll, name)])
		}
	}
	return sum([]byte(all)), nil
}
