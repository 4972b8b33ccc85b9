package bootstrap

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// unpack writes the files of packages into the tree, several packages at a
// time, and their records into dpkg's database.
func (s *system) unpack(ctx context.Context, packages []*pkg) error {
	if len(packages) == 0 {
		return nil
	}
	s.clock("unpack")
	ids, err := s.readIDs()
	if err != nil {
		return err
	}
	diverted, err := s.readDiversions()
	if err != nil {
		return err
	}
	// Those that replace files of others come last and one by one: the file
	// that stays is the one that is written last.
	replacing, calm := split(packages, s.replaces)
	for _, batch := range []struct {
		list    []*pkg
		workers int
	}{{calm, s.workers}, {replacing, 1}} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(batch.workers)
		for _, p := range batch.list {
			g.Go(func() error {
				if batch.workers == 1 {
					s.owners.settle() // this is the only one
				}
				u := &unpacker{
					system: s, p: p, ids: ids, diverted: diverted,
					dirs: &dirs{tree: s.tree}, buffer: make([]byte, 256<<10),
				}
				defer u.dirs.close()
				if err := u.run(ctx); err != nil {
					return fmt.Errorf("package %s: %w", p.Name, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		s.owners.settle()
	}
	return s.record(packages)
}

func (s *system) replaces(p *pkg) bool { return slices.ContainsFunc(s.packages, p.mayReplace) }

// unpacker unpacks one package.
type unpacker struct {
	*system
	p        *pkg
	ids      *ids
	diverted map[string]diversion
	dirs     *dirs
	buffer   []byte
	sum      hash.Hash // of the file that is written; nil when nobody wants it
}

func (u *unpacker) run(ctx context.Context) error {
	r, err := u.p.file.Data(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	u.p.list = []string{"/."}
	if !u.p.has("md5sums") {
		u.sum = md5.New()
	}
	in := bufio.NewReaderSize(r, 128<<10)
	for tr := tar.NewReader(in); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		p, err := absolute(h.Name)
		if err != nil {
			return err
		}
		if err := u.entry(p, h, tr); err != nil {
			return err
		}
	}
	// What lies behind the end of the archive is read too, for errors of the
	// decompression to be seen.
	_, err = io.Copy(io.Discard, in)
	return err
}

// entry puts one entry of the archive to its place.
func (u *unpacker) entry(p string, h *tar.Header, r io.Reader) error {
	if p == "/" {
		return nil
	}
	isDir, isLink := h.Typeflag == tar.TypeDir, h.Typeflag == tar.TypeSymlink
	if !isDir {
		if mine, err := u.owners.take(u.p, p, isLink); err != nil || !mine {
			return err
		}
	}
	u.p.list = append(u.p.list, p)
	if skips(u.options.Filters, p, isDir || isLink) {
		return nil
	}
	at := p
	if u.p.conffiles[p] && !isDir {
		at += ".dpkg-new"
	}
	if d, ok := u.diverted[p]; ok && d.by != u.p.Name {
		at = d.to
	}
	u.dirs.trim()
	dir, err := u.dirs.get(path.Dir(at))
	if err != nil {
		return err
	}
	if err := u.place(dir, path.Base(at), p, h, r); err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	return nil
}

// place makes a file, directory, link or device by its name in a directory.
func (u *unpacker) place(dir int, name, full string, h *tar.Header, r io.Reader) error {
	uid, gid := u.ids.of(h)
	mode := uint32(h.Mode) & 0o7777
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(dir, name, full, h, r)
	case tar.TypeDir:
		return u.directory(dir, name, full, h)
	case tar.TypeSymlink:
		return u.symlink(dir, name, h)
	case tar.TypeLink:
		return u.hardLink(dir, name, h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}
		_ = unix.Unlinkat(dir, name, 0)
		dev := int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))
		if err := unix.Mknodat(dir, name, kind[h.Typeflag]|mode, dev); err != nil {
			return err
		}
		return errors.Join(unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW), unix.Fchmodat(dir, name, mode, 0))
	}
	return fmt.Errorf("entry of the unknown kind %q", h.Typeflag)
}

func (u *unpacker) file(dir int, name, full string, h *tar.Header, r io.Reader) error {
	f, err := create(dir, name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := io.Writer(f)
	if u.sum != nil {
		u.sum.Reset()
		w = io.MultiWriter(f, u.sum)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, u.buffer); err != nil {
		return err
	}
	if u.sum != nil && !u.p.conffiles[full] {
		u.p.sums = append(u.p.sums, hex.EncodeToString(u.sum.Sum(nil))+"  "+strings.TrimPrefix(full, "/"))
	}
	uid, gid := u.ids.of(h)
	fd := int(f.Fd())
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil { // fchown clears set-user-ID
		return err
	}
	return u.setTime(dir, name, h)
}

func (u *unpacker) setTime(dir int, name string, h *tar.Header) error {
	ts := unix.NsecToTimespec(h.ModTime.UnixNano())
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// directory keeps one that is there, also a link to one.
func (u *unpacker) directory(dir int, name, full string, h *tar.Header) error {
	shapes, err := u.owners.shape(u.p, full)
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(dir, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if !shapes {
		return nil
	}
	if _, err := u.dirs.get(full); err != nil {
		return err // something else is there
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return err
	}
	uid, gid := u.ids.of(h)
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// The name is that of a directory: no program runs in the tree meanwhile.
	return unix.Fchmodat(dir, name, uint32(h.Mode)&0o7777, 0)
}

// symlink leaves a directory that is there in its place, as dpkg does.
func (u *unpacker) symlink(dir int, name string, h *tar.Header) error {
	err := unix.Symlinkat(h.Linkname, dir, name)
	if errors.Is(err, unix.EEXIST) {
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			return nil
		}
		if err := unix.Unlinkat(dir, name, 0); err != nil {
			return err
		}
		err = unix.Symlinkat(h.Linkname, dir, name)
	}
	if err != nil {
		return err
	}
	uid, gid := u.ids.of(h)
	if err := unix.Fchownat(dir, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return u.setTime(dir, name, h)
}

// hardLink links to a file of the same archive.
func (u *unpacker) hardLink(dir int, name string, h *tar.Header) error {
	target, err := absolute(h.Linkname)
	if err != nil {
		return err
	}
	from, err := u.dirs.get(path.Dir(target))
	if err != nil {
		return err
	}
	base := path.Base(target)
	if u.p.conffiles[target] {
		base += ".dpkg-new"
	}
	_ = unix.Unlinkat(dir, name, 0)
	if err := unix.Linkat(from, base, dir, name, 0); err != nil {
		return fmt.Errorf("hard link to %s: %w", target, err)
	}
	return nil
}

// ids are the tree's own users and groups.
type ids struct{ users, groups map[string]int }

// readIDs reads the tree's passwd(5) and group(5). There are none before the
// first packages are unpacked.
func (s *system) readIDs() (*ids, error) {
	out := &ids{}
	for file, to := range map[string]*map[string]int{"/etc/passwd": &out.users, "/etc/group": &out.groups} {
		text, err := s.tree.read(file)
		if err != nil {
			return nil, err
		}
		*to = map[string]int{}
		for line := range strings.Lines(string(text)) {
			if f := strings.Split(line, ":"); len(f) > 2 {
				if n, err := strconv.ParseUint(strings.TrimSpace(f[2]), 10, 31); err == nil {
					(*to)[f[0]] = int(n)
				}
			}
		}
	}
	return out, nil
}

// of returns the owner of an archive's entry: by name where the tree knows it,
// else by number, as dpkg does.
func (d *ids) of(h *tar.Header) (uid, gid int) {
	uid, gid = h.Uid, h.Gid
	if n, ok := d.users[h.Uname]; ok {
		uid = n
	}
	if n, ok := d.groups[h.Gname]; ok {
		gid = n
	}
	return uid, gid
}

// diversion sends a file of all packages but one to another path.
type diversion struct{ to, by string }

// readDiversions reads dpkg's database of diversions: three lines for each,
// the path, the other path and the package, ":" for none (dpkg-divert(1)).
func (s *system) readDiversions() (map[string]diversion, error) {
	text, err := s.tree.read(adminDir + "/diversions")
	if err != nil {
		return nil, err
	}
	lines := strings.Split(string(text), "\n")
	out := map[string]diversion{}
	for i := 0; i+2 < len(lines); i += 3 {
		out[lines[i]] = diversion{lines[i+1], lines[i+2]}
	}
	return out, nil
}
