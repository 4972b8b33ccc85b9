package refreshcfg

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
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/metadata"
)

// DefaultState is where a machine keeps what its runs have to remember. It is
// on the state partition and outlives an image.
const DefaultState = "/var/lib/goldsmith/refreshcfg"

// Image is what a machine runs.
type Image struct {
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
	// Root is the GUID of the root partition that the machine was started
	// with. It is made of the digest of the root's content, so that it tells
	// apart images of one name and version.
	Root string `json:"root,omitempty"`
}

// String is NAME VERSION, or "unknown image".
func (i Image) String() string {
	if i == (Image{}) {
		return "unknown image"
	}
	return strings.TrimSpace(i.Name + " " + i.Version)
}

// rootOf is the GUID of a kernel command line's root=PARTUUID=, or "".
func rootOf(cmdline string) string {
	for _, word := range strings.Fields(cmdline) {
		if id, ok := strings.CutPrefix(word, "root=PARTUUID="); ok && len(id) == 36 {
			return strings.ToLower(id)
		}
	}
	return ""
}

// Running is the image that this machine runs, as its own manifest and the
// kernel command line tell. What they do not tell is empty.
func Running() Image {
	var i Image
	if text, err := readBounded("/usr/share/goldsmith/manifest.json", 64<<20); err == nil {
		_ = json.Unmarshal(text, &i)
	}
	i.Root = ""
	if text, err := readBounded("/proc/cmdline", 64<<10); err == nil {
		i.Root = rootOf(string(text))
	}
	return i
}

// state is the directory of what is remembered. Nobody but root reads it: of
// short values, digests tell what they are.
//
//	image.json            the image in which the last run succeeded, and those before
//	hooks/PHASE/NAME.json the hook's last success
//	migrations/NAME.json  what became of a migration
//	snapshots/NAME/       what the migration's paths held before
//	room                  keeps room for writing a record on a full disk
type state struct{ dir string }

// success is hooks/PHASE/NAME.json.
type success struct {
	Image Image             `json:"image"`
	Saw   map[string]string `json:"saw,omitempty"` // digests of what Header.Changed names
}

// read reads one JSON file; one that is not there leaves v alone and is false.
func (s state) read(name string, v any) (bool, error) {
	path := filepath.Join(s.dir, name)
	text, err := readBounded(path, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return true, nil
}

// write writes one JSON file, which is on the disk when it returns.
func (s state) write(name string, v any) error {
	path := filepath.Join(s.dir, name)
	if err := s.mkdir(filepath.Dir(name)); err != nil {
		return err
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(path, append(text, '\n'), 0o600)
}

// roomName is a file that is removed when the disk is full, so that what became
// of a migration can be recorded nevertheless.
const roomName = "room"

// makeRoom makes room for a migration's record, with the directories' entries.
func (s state) makeRoom(m *Migration) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := s.mkdir("."); err != nil {
		return err
	}
	return s.reserve(int64(len(text)) + 4<<10)
}

// reserve has the room file hold at least so many bytes.
func (s state) reserve(size int64) error {
	path := filepath.Join(s.dir, roomName)
	if fi, err := os.Lstat(path); err == nil && fi.Size() >= size {
		return nil
	}
	return atomicfile.Write(path, make([]byte, size), 0o600)
}

// replace is write for a file that is there: on a full disk it uses the room,
// and makes that anew of what the old file took.
func (s state) replace(name string, v any) error {
	err := s.write(name, v)
	if !full(err) {
		return err
	}
	path := filepath.Join(s.dir, roomName)
	fi, none := os.Lstat(path)
	if none != nil || os.Remove(path) != nil {
		return err
	}
	err = s.write(name, v)
	_ = s.reserve(fi.Size())
	return err
}

// remove removes a file, and it stays away when power fails.
func (s state) remove(name string) error {
	path := filepath.Join(s.dir, name)
	if err := os.Remove(path); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// mkdir makes a directory in the state's, "." being that itself. Others have
// their state beside it: only what is made below it is closed.
func (s state) mkdir(name string) error {
	if err := mkdirSynced(filepath.Dir(s.dir), 0o755); err != nil {
		return err
	}
	return mkdirSynced(filepath.Join(s.dir, name), 0o700)
}

// mkdirSynced makes a directory and its parents so that they survive a power
// cut.
func mkdirSynced(dir string, mode fs.FileMode) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := mkdirSynced(parent, mode); err != nil {
		return err
	}
	if err := os.Mkdir(dir, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return atomicfile.SyncDir(parent)
}

func hookRecord(phase, name string) string { return filepath.Join("hooks", phase, name+".json") }

// last reads a hook's last success. A record that cannot be read counts as
// none: the hook runs once more.
func (s state) last(phase, name string, last *success) bool {
	there, err := s.read(hookRecord(phase, name), last)
	return there && err == nil
}

// saw are the digests of what the words of Header.Changed name now. A path
// that is not there, and a key that the metadata has not, count as such. A
// pattern that matches nothing has one entry, so that the first match counts.
func saw(words []string, doc *metadata.Object) (map[string]string, error) {
	now := map[string]string{}
	for _, w := range words {
		if !strings.HasPrefix(w, "/") {
			now[w] = "absent"
			if v, ok := metadata.Lookup(doc, w); ok {
				now[w] = sum([]byte(metadata.JSON(v)))
			}
			continue
		}
		paths, err := filepath.Glob(w)
		if err != nil {
			return nil, err
		}
		if len(paths) == 0 {
			now[w] = "absent"
		}
		for _, p := range paths {
			if now[p], err = pathDigest(p); err != nil {
				return nil, err
			}
		}
	}
	return now, nil
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// pathDigest is of what a path holds: a file's mode, owner and content, a
// link's target, and of a directory the names and all that is below it.
// A link that is named counts with what it leads to. What vanishes meanwhile
// is not there.
func pathDigest(path string) (string, error) {
	h := sha256.New()
	if real, err := filepath.EvalSymlinks(path); err == nil && real != filepath.Clean(path) {
		fmt.Fprintf(h, "%q\n", path)
		path = real
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = addDigest(h, p, d.Type())
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

func addDigest(h io.Writer, path string, kind fs.FileMode) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	fmt.Fprintf(h, "%q %o %d %d\n", path, st.Mode, st.Uid, st.Gid)
	switch kind {
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		fmt.Fprintf(h, "%q\n", target)
		return err
	case 0:
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(h, "%d\n", st.Size)
		_, err = io.Copy(h, f)
		return err
	}
	return nil
}

// differs returns the words that are not what they were, sorted.
func differs(before, now map[string]string) []string {
	var words []string
	for w, v := range now {
		if before[w] != v {
			words = append(words, w)
		}
	}
	for w := range before {
		if _, ok := now[w]; !ok {
			words = append(words, w)
		}
	}
	slices.Sort(words)
	return words
}

// readStart reads at most limit bytes of a file.
func readStart(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	text, err := readStart(path, limit+1)
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", path, limit)
	}
	return text, err
}
