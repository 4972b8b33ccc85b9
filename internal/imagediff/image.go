package imagediff

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"goldsmith/internal/disk"
	"goldsmith/internal/dpkg"
	"goldsmith/internal/filelist"
	"goldsmith/internal/lint"
	"goldsmith/internal/tree"
)

// Limits of one image. All are far above what images have.
const (
	maxFiles   = 4 << 20   // names
	maxContent = 256 << 30 // bytes of all files together, holes included
	maxText    = 64 << 20  // bytes of one file that is looked into
	maxTexts   = 512 << 20 // bytes of all those
	maxPath    = 4096      // bytes of a path, Linux's PATH_MAX
)

// Image is what was read of an image.
type Image struct {
	Path       string // as it was named
	Format     string // "disk, erofs", "tar", "container", …
	Size       int64  // of the file, in bytes; 0 where there is no one file
	Files      []filelist.File
	Packages   []dpkg.Package
	Partitions []disk.Partition
	Cmdline    string // of the kernel; empty where it could not be read
	Kernels    []string
	// Notes are what could not be read, and why.
	Notes []string

	manifest manifest
	os       string               // PRETTY_NAME
	text     map[string][]byte    // content of the files that wanted says, by File.Path
	times    map[string]time.Time // of the last change of a file's content, by File.Path
}

// Text is the content of a file that internal/lint reads, or that declares
// state; nil for others.
func (m *Image) Text(path string) []byte { return m.text[path] }

// manifest is what of an image's own manifest is compared.
type manifest struct {
	Name     string   `json:"name"`
	Version  string   `json:"version"`
	Arch     string   `json:"arch"`
	Release  string   `json:"release"`
	Elements []string `json:"elements"`
}

// Places of files whose content is looked into.
var (
	configFile = regexp.MustCompile(`^(boot/config-(.+)|(?:usr/)?lib/modules/([^/]+)/config)$`)
	unitFile   = regexp.MustCompile(`^(?:etc|run|usr/lib|lib)/systemd/system/`)
	kernelFile = regexp.MustCompile(`^(?:boot/vmlinuz-([^/]+)|(?:usr/)?lib/modules/([^/]+))$`)
)

// wanted tells whether a file is looked into.
func wanted(p string) bool {
	switch p {
	case dpkg.StatusFile, disk.ManifestFile, "usr/lib/os-release", "etc/os-release", "var/lib/dpkg/diversions", grubConfig:
		return true
	}
	return lint.Reads("/"+p) || strings.HasPrefix(p, disk.StateDir+"/") || configFile.MatchString(p) || path.Dir(p) == "var/lib/dpkg/info" && strings.HasSuffix(p, ".list")
}

// collector takes in the files of an image, layer by layer.
type collector struct {
	ctx   context.Context
	files map[string]*file // by Entry.Path
	left  int64            // bytes of content that may still come
	texts int64            // and of files that are looked into
	sum   hash.Hash
	image *Image
}

// file is one name of an image.
type file struct {
	filelist.File
	entry *tree.Entry
	text  []byte // nil unless wanted
}

func newCollector(ctx context.Context, m *Image) *collector {
	return &collector{
		ctx: ctx, files: map[string]*file{}, left: maxContent, texts: maxTexts, sum: sha256.New(), image: m,
	}
}

// add takes in a name. content writes a regular file's content in order, and
// is not called for hard links.
func (c *collector) add(e *tree.Entry, content func(w io.Writer) error) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	switch {
	case len(c.files) >= maxFiles:
		return fmt.Errorf("more than %d files", maxFiles)
	case len(e.Path) > maxPath || strings.ContainsRune(e.Path, 0):
		return fmt.Errorf("%.60q: a path that no system can have", e.Path)
	}
	if e.Kind() == tree.ModeSocket {
		return nil // nothing without its server, and not every format can hold one
	}
	f := &file{File: filelist.New(e), entry: e}
	if e.LinkTo != "" {
		if to := c.files[e.LinkTo]; to != nil {
			entry := *to.entry
			entry.Path, entry.LinkTo = e.Path, cmp.Or(to.entry.LinkTo, e.LinkTo)
			f.File = filelist.New(&entry)
			f.entry, f.SHA256, f.text = &entry, to.SHA256, to.text
		}
	} else if e.Kind() == tree.ModeRegular {
		if err := c.read(f, content); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	delete(f.Xattrs, "security.selinux") // of the machine that made the image
	c.files[e.Path] = f
	return nil
}

// read takes the digest of a file, and keeps the content if it is wanted.
func (c *collector) read(f *file, content func(w io.Writer) error) error {
	if c.left -= f.Size; f.Size < 0 || c.left < 0 {
		return fmt.Errorf("files of more than %d GiB", maxContent>>30)
	}
	c.sum.Reset()
	w := &sink{ctx: c.ctx, sum: c.sum, left: f.Size}
	w.keep = wanted(f.entry.Path) && f.Size <= min(maxText, c.texts)
	if err := content(w); err != nil {
		return err
	}
	if w.left != 0 {
		return io.ErrUnexpectedEOF
	}
	f.SHA256, f.text = hex.EncodeToString(c.sum.Sum(nil)), w.text
	c.texts -= int64(len(w.text))
	return nil
}

// sink takes a file's content.
type sink struct {
	ctx  context.Context
	sum  hash.Hash
	left int64 // bytes to come
	keep bool
	text []byte
}

func (s *sink) Write(b []byte) (int, error) {
	if err := context.Cause(s.ctx); err != nil {
		return 0, err
	}
	if s.left -= int64(len(b)); s.left < 0 {
		return 0, errors.New("more content than its size says")
	}
	if s.keep {
		s.text = append(s.text, b...)
	}
	return s.sum.Write(b)
}

// links makes each file of several names a file by the first of them, and a
// link by the others, in whatever order they came.
func (c *collector) links() {
	groups := map[string][]string{}
	for p, f := range c.files {
		if f.Link != "" {
			groups[f.Link[1:]] = append(groups[f.Link[1:]], p)
		}
	}
	for first, names := range groups {
		if c.files[first] != nil {
			names = append(names, first)
		}
		slices.SortFunc(names, tree.Compare)
		c.files[names[0]].Link = ""
		for _, n := range names[1:] {
			c.files[n].Link = "/" + names[0]
		}
	}
}

// finish makes the image of what was taken in.
func (c *collector) finish() error {
	c.links()
	m := c.image
	t := tree.New()
	for _, f := range c.files {
		if f.entry.Path == "." {
			continue
		}
		e := *f.entry
		e.LinkTo = ""
		t.Add(&e)
	}
	m.text = map[string][]byte{}
	for p, f := range c.files {
		if f.text != nil {
			t.AddFile(p, f.entry.Mode&0o7777, f.text)
			m.text[f.Path] = f.text
		}
	}
	owners, err := filelist.Owners(t)
	if err != nil {
		return err
	}
	paths := slices.SortedFunc(maps.Keys(c.files), tree.Compare)
	kernels := map[string]bool{}
	m.times = make(map[string]time.Time, len(paths))
	for _, p := range paths {
		f := c.files[p]
		f.Package = owners[p]
		m.Files = append(m.Files, f.File)
		m.times[f.Path] = f.entry.ModTime
		if k := kernelFile.FindStringSubmatch(p); k != nil {
			kernels[cmp.Or(k[1], k[2])] = true
		}
	}
	for _, k := range m.Kernels { // of the EFI partition
		kernels[k] = true
	}
	m.Kernels = slices.Sorted(maps.Keys(kernels))
	return m.describe()
}

// describe reads what the image says about itself.
func (m *Image) describe() error {
	if text, ok := m.text["/"+dpkg.StatusFile]; ok {
		var err error
		if m.Packages, err = dpkg.Installed(strings.NewReader(string(text))); err != nil {
			m.note("%v", err)
		}
	}
	if text, ok := m.text["/"+disk.ManifestFile]; ok {
		if err := json.Unmarshal(text, &m.manifest); err != nil {
			m.note("%s: %v", disk.ManifestFile, err)
		}
	}
	release := cmp.Or(string(m.text["/usr/lib/os-release"]), string(m.text["/etc/os-release"]))
	for line := range strings.Lines(release) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			m.os = strings.Trim(v, `"'`)
		}
	}
	if m.Cmdline == "" {
		m.Cmdline = grubCmdline(string(m.text["/"+grubConfig]))
	}
	return nil
}

func (m *Image) note(format string, args ...any) {
	m.Notes = append(m.Notes, fmt.Sprintf(format, args...))
}

const grubConfig = "boot/grub/grub.cfg"

// grubCmdline is the command line of GRUB's first entry.
func grubCmdline(config string) string {
	for line := range strings.Lines(config) {
		if w := strings.Fields(line); len(w) > 1 && w[0] == "linux" {
			return strings.Join(w[2:], " ")
		}
	}
	return ""
}
