package sourcerepo

import (
	"context"
	"crypto/sha1" // names of files in the cache, as diskimage-builder makes them
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"goldsmith/internal/command"
	"goldsmith/internal/download"
)

// Fetcher fetches repositories into one tree. Root and Cache must be set.
type Fetcher struct {
	Root    string // the image's tree
	Cache   string // directory of the cache; it is made when it is not there
	Work    string // scratch directory; empty means the system's
	Offline bool   // use what the cache has; what it has not fails
	// Manifest is a path in the tree: the Git repositories are noted there, a
	// line "NAME git DEST LOCATION COMMIT" each. Empty means nowhere.
	Manifest string
	Env      Environment
	Log      io.Writer     // what is being done; nil means nobody is told
	Delay    time.Duration // between tries of what a network may have spoilt; 0 means 5 seconds
	LockWait time.Duration // how long another process may hold the cache; 0 means 10 minutes
	// Pins are what the repositories must be; nil means whatever they are now.
	// With them, one that is not pinned is an error.
	Pins   []Pin
	Record func(Pin) error // told what each repository was; may be nil
}

// tries is how often git is called before its failure counts.
const tries = 5

// listing is where the image keeps the destinations.
const listing = "/etc/dib-source-repositories"

// Fetch fetches repositories, in the given order, under the cache's lock.
// Those that are not to be installed from source are left out
// (DIB_INSTALLTYPE_NAME, DIB_DEFAULT_INSTALLTYPE), and so are packages: the
// element's other hooks install those.
func (f *Fetcher) Fetch(ctx context.Context, repos []Repository) error {
	if err := os.MkdirAll(f.Cache, 0o755); err != nil {
		return err
	}
	lock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	for i := range repos {
		r := &repos[i]
		f.say("(%04d / %04d)", i+1, len(repos))
		if t := f.installType(r); t != "source" {
			f.say("%s install type not set to source", r.Name)
			continue
		}
		if r.Type == "package" {
			f.say("%s is installed from packages", r.Name)
			continue
		}
		if err := r.check(); err != nil {
			return err
		}
		if err := f.one(ctx, r); err != nil {
			return fmt.Errorf("%s:%d: %s: %w", r.File, r.Line, r.Name, err)
		}
		if err := f.record(listing, r.Dest); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fetcher) one(ctx context.Context, r *Repository) error {
	switch r.Type {
	case "git":
		return f.git(ctx, r)
	case "tar":
		return f.tar(ctx, r)
	}
	return f.file(ctx, r)
}

func (f *Fetcher) installType(r *Repository) string {
	for _, t := range []string{f.Env.variable("DIB_INSTALLTYPE", r.Name), f.Env["DIB_DEFAULT_INSTALLTYPE"]} {
		if t != "" {
			return t
		}
	}
	return "source"
}

// cached is where the cache keeps a repository.
func (f *Fetcher) cached(r *Repository) string {
	sum := sha1.Sum([]byte(r.Type + "_" + r.Location + "\n"))
	return filepath.Join(f.Cache, notWord.ReplaceAllString(r.Name, "_")+"_"+hex.EncodeToString(sum[:]))
}

// lock takes the cache for this process: diskimage-builder locks the same file.
func (f *Fetcher) lock(ctx context.Context) (*os.File, error) {
	wait := f.LockWait
	if wait == 0 {
		wait = 10 * time.Minute
	}
	name := filepath.Join(f.Cache, "repositories_flock")
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(wait); ; {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return file, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), file.Close())
		case !time.Now().Before(end):
			busy := command.Busy(fmt.Errorf("%s: another build holds the lock", name), "wait for it to end")
			return nil, errors.Join(busy, file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), file.Close())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// dest is a repository's place in the tree, as a path on the host whose
// parents are made and whose symbolic links have been followed inside the tree.
func (f *Fetcher) dest(name string) (string, error) {
	inside, err := within(f.Root, name)
	if err != nil {
		return "", err
	}
	full := filepath.Join(f.Root, inside)
	return full, os.MkdirAll(filepath.Dir(full), 0o755)
}

// within resolves the symbolic links of a path as the system in root would:
// absolute ones start at root, and nothing leads out of it.
func within(root, name string) (string, error) {
	todo := strings.Split(name, "/")
	at := "/"
	for links := 0; len(todo) > 0; {
		next := path.Join(at, todo[0])
		todo = todo[1:]
		target, err := os.Readlink(filepath.Join(root, next))
		if err != nil {
			at = next // no link, or not there
			continue
		}
		if links++; links > 40 {
			return "", fmt.Errorf("%s: %w", name, unix.ELOOP)
		}
		if path.IsAbs(target) {
			at = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return at, nil
}

// record appends a line to a file of the tree.
func (f *Fetcher) record(name, line string) error {
	full, err := f.dest(name)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(full, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, line)
	return errors.Join(err, out.Close())
}

// download brings the location into the cache and returns the file. Offline,
// what is there serves; and so does what is pinned, also when the server has
// another by now. That is replaced only by what is pinned.
func (f *Fetcher) download(ctx context.Context, r *Repository, force bool) (string, error) {
	to := f.cached(r)
	pin, err := f.pin(r)
	if err != nil {
		return "", err
	}
	if pin != nil && !force {
		if sum, err := fileSum(to); err == nil && sum == pin.SHA256 {
			return to, f.pinnedFiles().Keep(to, sum)
		}
		if ok, err := f.pinnedFiles().Give(to, pin.SHA256); ok || err != nil {
			return to, err
		}
	}
	if fi, err := os.Stat(to); f.Offline && err == nil && fi.Mode().IsRegular() {
		return to, nil
	}
	if f.Offline && !strings.HasPrefix(r.Location, "file://") {
		return "", f.notCached(r)
	}
	f.say("Caching %s %s from %s in %s", r.Name, r.Type, Public(r.Location), to)
	g := download.Getter{Force: force, Delay: f.delay(), Retrying: func(err error) { f.say("%v; trying again", err) }}
	if pin != nil {
		g.SHA256, g.Final = pin.SHA256, true
	}
	_, err = g.Get(ctx, r.Location, to)
	if e, ok := errors.AsType[*download.DigestError](err); ok {
		err = notPinned(r, e.Got, e.Want)
	}
	if err == nil && pin != nil {
		err = f.pinnedFiles().Keep(to, pin.SHA256)
	}
	return to, err
}

// pinnedFiles are beside the cache of repositories, for cache-url too.
func (f *Fetcher) pinnedFiles() Pinned { return Pinned(filepath.Join(f.Cache, "../pinned")) }

func (f *Fetcher) notCached(r *Repository) error {
	return command.Missing(fmt.Errorf("%s is not in the cache %s, and this build is offline", Public(r.Location), f.Cache),
		"build once without --offline (DIB_OFFLINE)")
}

func (f *Fetcher) file(ctx context.Context, r *Repository) error {
	from, err := f.download(ctx, r, false)
	if err != nil {
		return err
	}
	if err := f.verify(r, from); err != nil {
		return err
	}
	to, err := f.dest(r.Dest)
	if err != nil {
		return err
	}
	if fi, err := os.Lstat(to); err == nil && !fi.Mode().IsRegular() {
		return command.BadInput(fmt.Errorf("%s is there and no file", r.Dest),
			"the destination is the file's name, not its directory")
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// tar unpacks in a directory of its own first: which part is wanted is seen
// only there.
func (f *Fetcher) tar(ctx context.Context, r *Repository) error {
	tmp, err := os.MkdirTemp(f.Work, "source")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := f.unpack(ctx, r, tmp); err != nil {
		return err
	}
	to, err := f.dest(r.Dest)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	parts := []string{r.Ref}
	if r.Ref == "*" {
		entries, err := os.ReadDir(tmp)
		if err != nil {
			return err
		}
		parts = nil
		for _, e := range entries {
			if e.IsDir() {
				parts = append(parts, e.Name())
			}
		}
	}
	for _, part := range parts {
		inside, err := within(tmp, part)
		if err != nil {
			return err
		}
		from := filepath.Join(tmp, inside)
		if fi, err := os.Stat(from); err != nil || !fi.IsDir() {
			return r.errorf("the fifth word is '.', '*' or a directory in the tarball", "the tarball has no directory %q", part)
		}
		if err := f.run(ctx, "cp", "-a", "--remove-destination", "--", from+"/.", to); err != nil {
			return err
		}
	}
	return nil
}

// unpack unpacks the tarball. One that is broken is fetched once more: it may
// have been so in the cache for long.
func (f *Fetcher) unpack(ctx context.Context, r *Repository, tmp string) error {
	from, err := f.download(ctx, r, false)
	if err != nil {
		return err
	}
	unpack := func() error { return f.run(ctx, "tar", "-C", tmp, "--no-same-owner", "-xf", from) }
	err = unpack()
	if err == nil {
		return f.verify(r, from)
	}
	if ctx.Err() != nil {
		return err
	}
	if f.Offline {
		return command.Hint(fmt.Errorf("%s: no tarball, or a broken one: %w", from, err),
			"remove it and build once without --offline (DIB_OFFLINE)")
	}
	f.say("%s is broken; fetching it again", from)
	if _, err := f.download(ctx, r, true); err != nil {
		return err
	}
	if err := unpack(); err != nil {
		return errors.Join(fmt.Errorf("%s: no tarball, or a broken one: %w", Public(r.Location), err), os.Remove(from))
	}
	return f.verify(r, from)
}

func (f *Fetcher) run(ctx context.Context, args ...string) error {
	return command.Exec{Args: args, Log: f.Log, Remedy: "install " + args[0]}.Run(ctx)
}

func (f *Fetcher) delay() time.Duration {
	if f.Delay == 0 {
		return 5 * time.Second
	}
	return f.Delay
}

func (f *Fetcher) say(format string, args ...any) {
	if f.Log != nil {
		fmt.Fprintf(f.Log, format+"\n", args...)
	}
}

// Public is a location without user and password. SSH's users alone are no
// secret, and part of the address; others may be tokens.
func Public(location string) string {
	u, err := url.Parse(location)
	if err != nil || u.User == nil {
		return location
	}
	if _, password := u.User.Password(); u.Scheme == "ssh" && !password {
		return location
	}
	u.User = nil
	return u.String()
}
