package main

import (
	"archive/tar"
	"context"
	"errors"
	"flag"
	"fmt"
	stdio "io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"goldsmith/internal/atomicfile"
	"goldsmith/internal/command"
	database "goldsmith/internal/store"
)

// A backup is a tar file in zstd: dump.jsonl, the database, then the store's
// directories as they are.
const dumpName = "dump.jsonl"

// kept are the directories of a store that a backup has. What is not among them
// is made anew.
var kept = []string{"oci", "runs"}

func backupCommand() *command.Command {
	var dir string
	var bare bool
	return &command.Command{
		Name:  "backup",
		Args:  "FILE.tar.zst",
		Short: "keep runs, decisions, images and evidence in a file",
		Long: `
Writes the database as it is at one moment, images with what is attached to them, and what runs left. It may be
made while runs go on. The file has secrets (what nodes are deployed with, until they are cleaned): its mode is
0600. --database-only leaves images and files out.`,
		Example: `imgpipe backup /var/backups/imgpipe.tar.zst`,
		Flags: func(fs *flag.FlagSet) {
			dirFlag(fs, &dir)
			fs.BoolVar(&bare, "database-only", false, "leave out images and what runs left")
		},
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("backup needs a file", "imgpipe backup imgpipe.tar.zst")
			}
			if _, err := os.Stat(dir); err != nil {
				return command.BadInput(fmt.Errorf("%s: nothing is there", dir), "--dir names another directory")
			}
			o, err := openOffice(ctx, dir)
			if err != nil {
				return err
			}
			defer o.close()
			f, err := atomicfile.Create(args[0], 0o600)
			if err != nil {
				return err
			}
			defer f.Abort()
			names := kept
			if bare {
				names = nil
			}
			err = act(ctx, o.db, caller(), "backup "+args[0], func(ctx context.Context) error { return writeBackup(ctx, f, o.db, dir, names) })
			if err != nil {
				return err
			}
			return f.Commit()
		},
	}
}

func writeBackup(ctx context.Context, w stdio.Writer, db *database.DB, dir string, names []string) error {
	z, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	// A tar file says how large a file is before it comes.
	dump, err := os.CreateTemp(dir, "build-dump") // swept like a stage's scratch
	if err != nil {
		return err
	}
	defer os.Remove(dump.Name())
	defer dump.Close()
	if err := db.Dump(ctx, dump); err != nil {
		return err
	}
	if err := addFile(t, dump, dumpName); err != nil {
		return err
	}
	for _, name := range names {
		if err := addTree(ctx, t, dir, name); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}

func addFile(t *tar.Writer, f *os.File, name string) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, stdio.SeekStart); err != nil {
		return err
	}
	if err := t.WriteHeader(&tar.Header{Name: name, Mode: int64(fi.Mode().Perm()), Size: fi.Size(), ModTime: fi.ModTime(), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = stdio.CopyN(t, f, fi.Size()) // what is added meanwhile is not part of it
	return err
}

// addTree adds a directory's regular files. The index of images comes first: what
// it names is there when it is read, and is only removed by gc.
func addTree(ctx context.Context, t *tar.Writer, dir, name string) error {
	var files []string
	err := filepath.WalkDir(filepath.Join(dir, name), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir // what comes into a layout, and is not whole yet
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		files = append(files, path)
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	index := func(path string) bool { return filepath.Base(path) == "index.json" }
	slices.SortStableFunc(files, func(a, b string) int {
		switch {
		case index(a) == index(b):
			return strings.Compare(a, b)
		case index(a):
			return -1
		}
		return 1
	})
	for _, path := range files {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was of an ingestion that has ended
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil {
			err = addFile(t, f, filepath.ToSlash(rel))
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func restoreCommand() *command.Command {
	var dir string
	return &command.Command{
		Name:  "restore",
		Args:  "FILE.tar.zst",
		Short: "bring back what a backup keeps",
		Long: `
Fills a directory that is not there yet, and the database: a file in it, or the PostgreSQL database that
IMGPIPE_DATABASE names, which must be empty. So a store moves from the one kind of database to the other, too.
When it fails, the directory is not there.`,
		Example: `imgpipe restore --dir /var/lib/imgpipe /var/backups/imgpipe.tar.zst
IMGPIPE_DATABASE=postgres://imgpipe@db/imgpipe imgpipe restore --dir /var/lib/imgpipe imgpipe.tar.zst`,
		Flags: func(fs *flag.FlagSet) { dirFlag(fs, &dir) },
		Run: func(ctx context.Context, io command.IO, args []string) error {
			if len(args) != 1 {
				return command.Usage("restore needs a backup", "imgpipe restore imgpipe.tar.zst")
			}
			if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
				return command.BadInput(fmt.Errorf("%s: there already", dir), "--dir names a directory that restore makes")
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			part := strings.TrimRight(dir, "/") + ".part"
			if err := os.Mkdir(part, 0o750); err != nil {
				return err
			}
			defer os.RemoveAll(part)
			if err := readBackup(ctx, f, args[0], part); err != nil {
				return err
			}
			if err := noteIn(ctx, part, "restore "+args[0]); err != nil {
				return err
			}
			return os.Rename(part, dir)
		},
	}
}

func readBackup(ctx context.Context, r stdio.Reader, file, dir string) error {
	z, err := zstd.NewReader(command.Reader(ctx, r))
	if err != nil {
		return err
	}
	defer z.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(z)
	var dump *os.File
	for {
		h, err := t.Next()
		if errors.Is(err, stdio.EOF) {
			break
		}
		if err != nil {
			return command.BadInput(fmt.Errorf("%s: %w", file, err), "expected a file that 'imgpipe backup' made")
		}
		if h.Name == dumpName && dump == nil {
			// It is loaded last: a database elsewhere is not to have half of a backup.
			if dump, err = spool(dir, t); err != nil {
				return err
			}
			defer os.Remove(dump.Name())
			defer dump.Close()
			continue
		}
		if err := putBack(root, h, t); err != nil {
			return fmt.Errorf("%s: %s: %w", file, command.Plain(h.Name), err)
		}
	}
	if dump == nil {
		return command.BadInput(fmt.Errorf("%s: no database in it", file), "expected a file that 'imgpipe backup' made")
	}
	if err := loadDump(ctx, dir, dump); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// spool keeps what r has in a file of the directory, and goes back to its
// beginning.
func spool(dir string, r stdio.Reader) (*os.File, error) {
	f, err := os.CreateTemp(dir, "build-dump")
	if err != nil {
		return nil, err
	}
	if _, err = stdio.Copy(f, r); err == nil {
		_, err = f.Seek(0, stdio.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, nil
}

// noteIn adds a command to the audit trail of the database in a directory.
func noteIn(ctx context.Context, dir, request string) error {
	db, err := openDatabase(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(act(ctx, db, caller(), request, func(context.Context) error { return nil }), db.Close())
}

func loadDump(ctx context.Context, dir string, r stdio.Reader) error {
	db, err := openDatabase(ctx, dir)
	if err != nil {
		return err
	}
	err = db.Load(ctx, r)
	if err == nil {
		err = adopt(ctx, db, dir)
	}
	return errors.Join(err, db.Close())
}

// putBack writes one file. Only what a backup has is taken.
func putBack(root *os.Root, h *tar.Header, r stdio.Reader) error {
	first, _, _ := strings.Cut(h.Name, "/")
	if h.Typeflag != tar.TypeReg || !filepath.IsLocal(h.Name) || !slices.Contains(kept, first) {
		return command.BadInput(errors.New("not a file that a backup has"), "")
	}
	if err := root.MkdirAll(filepath.Dir(h.Name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fs.FileMode(h.Mode).Perm())
	if err != nil {
		return err
	}
	_, err = stdio.Copy(f, r)
	return errors.Join(err, f.Close())
}
