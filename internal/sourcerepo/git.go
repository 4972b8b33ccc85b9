package sourcerepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"goldsmith/internal/command"
)

// git brings a repository into the cache up to date and clones it into the
// tree from there.
func (f *Fetcher) git(ctx context.Context, r *Repository) error {
	cache, want := f.cached(r), r.Ref
	pin, err := f.pin(r)
	if err != nil {
		return err
	}
	if pin != nil {
		want = pin.Commit
	}
	if err := f.mirror(ctx, r, cache, want); err != nil {
		return err
	}
	dest, err := f.dest(r.Dest)
	if err != nil {
		return err
	}
	f.say("Cloning from %s cache and applying ref %s", r.Name, r.Ref)
	if _, err := os.Stat(dest); err == nil {
		return f.same(ctx, r, dest)
	}
	commit, err := f.clone(ctx, r, cache, dest, want)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dest))
	}
	if err := f.pinned(r, commit, ""); err != nil {
		return err
	}
	if f.Manifest == "" {
		return nil
	}
	return f.record(f.Manifest, strings.Join([]string{r.Name, "git", r.Dest, Public(r.Location), commit}, " "))
}

// mirror makes the cache have what is wanted: the reference, or a commit that
// is pinned.
func (f *Fetcher) mirror(ctx context.Context, r *Repository, cache, want string) error {
	dir := "--git-dir=" + filepath.Join(cache, ".git")
	if _, err := os.Stat(cache); os.IsNotExist(err) {
		if f.Offline && remote(r.Location) {
			return f.notCached(r)
		}
		f.say("Caching %s from %s in %s", r.Name, Public(r.Location), cache)
		err := f.again(ctx, func() error {
			if err := os.RemoveAll(cache + ".tmp"); err != nil {
				return err
			}
			_, err := f.call(ctx, "clone", "-q", "--", r.Location, cache+".tmp")
			return err
		})
		if err != nil {
			return err
		}
		if err := os.Rename(cache+".tmp", cache); err != nil {
			return err
		}
	}
	if want != r.Ref && f.has(ctx, dir, want) {
		return nil // a commit does not change
	}
	if f.Offline {
		if r.Ref == "*" || f.has(ctx, dir, want) {
			return nil
		}
		if remote(r.Location) {
			return f.notCached(r)
		}
	}
	f.say("Updating cache of %s in %s with ref %s", Public(r.Location), cache, r.Ref)
	err := f.again(ctx, func() error { return f.update(ctx, r, dir) })
	if err != nil {
		return err
	}
	if r.Ref != "*" && !f.has(ctx, dir, want) {
		return command.BadInput(fmt.Errorf("%s has no %s", Public(r.Location), want),
			"the fifth word is a branch, tag or commit that can be reached from one; it is master if left out")
	}
	return nil
}

// update fetches the reference, whatever it is: a name, also one outside the
// usual places, or a commit, which servers do not hand out by itself.
func (f *Fetcher) update(ctx context.Context, r *Repository, dir string) error {
	fetch := []string{dir, "fetch", "-q", "--prune", "--update-head-ok", "--", r.Location}
	if r.Ref != "*" {
		if _, err := f.call(ctx, append(fetch, "+"+r.Ref+":"+r.Ref)...); err == nil || ctx.Err() != nil {
			return err
		}
	}
	_, err := f.call(ctx, append(fetch, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")...)
	return err
}

func (f *Fetcher) has(ctx context.Context, dir, ref string) bool {
	_, err := f.call(ctx, dir, "rev-parse", "-q", "--verify", "--end-of-options", ref+"^{commit}")
	return err == nil
}

// same holds a destination that another line has filled to this one's
// location and reference.
func (f *Fetcher) same(ctx context.Context, r *Repository, dest string) error {
	origin, err := f.call(ctx, "-C", dest, "config", "remote.origin.url")
	if err != nil || origin != Public(r.Location) {
		return command.BadInput(fmt.Errorf("%s holds something else already (%s)", r.Dest, origin),
			"give each repository a destination of its own")
	}
	if r.Ref != "*" && !f.has(ctx, "--git-dir="+filepath.Join(dest, ".git"), "fetch_"+r.Ref) {
		return command.BadInput(fmt.Errorf("%s holds another reference than %s already", r.Dest, r.Ref),
			"two elements must agree on one")
	}
	return nil
}

// clone makes the repository in the tree and returns its commit. Nothing in it
// leads back to this machine: no name of the cache, no time or user of today,
// no file that the cache shares.
func (f *Fetcher) clone(ctx context.Context, r *Repository, cache, dest, want string) (string, error) {
	const noLog = "core.logAllRefUpdates=false"
	steps := [][]string{{"-c", noLog, "clone", "-q", "--no-hardlinks", "--template=", "--", cache, dest}}
	if want != r.Ref {
		// A pinned commit alone: what else the cache has changes.
		steps = [][]string{{"-c", noLog, "init", "-q", "--template=", "--", dest}}
	}
	at := []string{"-C", dest, "-c", noLog, "-c", "pack.threads=1"}
	head := "HEAD"
	if r.Ref == "*" {
		steps = append(steps, append(at, "fetch", "-q", "--prune", "--update-head-ok", "--", cache,
			"+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"))
	} else {
		steps = append(steps,
			append(at, "fetch", "-q", "--", cache, want+":fetch_"+r.Ref),
			append(at, "reset", "-q", "--hard", "FETCH_HEAD"))
		head = "fetch_" + r.Ref
	}
	steps = append(steps, append(at, "config", "remote.origin.url", Public(r.Location)))
	for _, args := range steps {
		if _, err := f.call(ctx, args...); err != nil {
			return "", err
		}
	}
	for _, name := range []string{"FETCH_HEAD", "ORIG_HEAD", "index"} {
		if err := os.Remove(filepath.Join(dest, ".git", name)); err != nil && !os.IsNotExist(err) {
			return "", err
		}
	}
	// An index without the times of the files, which git finds out again.
	if _, err := f.call(ctx, "-C", dest, "read-tree", "HEAD"); err != nil {
		return "", err
	}
	return f.call(ctx, "-C", dest, "rev-parse", "--verify", head+"^{commit}")
}

// again calls what a network may spoil until it works, five times at most.
func (f *Fetcher) again(ctx context.Context, do func() error) error {
	for try := 1; ; try++ {
		err := do()
		if _, failed := errors.AsType[*command.ExitError](err); !failed || try == tries {
			return err
		}
		f.say("%v; trying again", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(f.delay()):
		}
	}
}

// call runs git, which asks nobody for a password, and returns what it prints.
// A password in a URL reaches neither log nor error.
func (f *Fetcher) call(ctx context.Context, args ...string) (string, error) {
	var out, said bytes.Buffer
	env := append(os.Environ(), "GIT_TERMINAL_PROMPT=0")
	err := command.Exec{
		Args: append([]string{"git"}, args...), Env: env, Stdout: &out, Log: &said, Remedy: "install git",
	}.Run(ctx)
	hide := secrets(args)
	if f.Log != nil {
		if _, err := hide.WriteString(f.Log, said.String()); err != nil {
			return "", err
		}
	}
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		for i := range x.Tail {
			x.Tail[i] = hide.Replace(x.Tail[i])
		}
	}
	return strings.TrimSpace(out.String()), err
}

// secrets removes users and passwords of the URLs among args.
func secrets(args []string) *strings.Replacer {
	var pairs []string
	for _, a := range args {
		if u, err := url.Parse(a); err == nil && u.User != nil {
			_, rest, _ := strings.Cut(a, "://")
			user, _, _ := strings.Cut(rest, "@")
			pairs = append(pairs, user+"@", "")
		}
	}
	return strings.NewReplacer(pairs...)
}

// remote tells whether a location is on another machine.
func remote(location string) bool {
	return !strings.HasPrefix(location, "file://") && !strings.HasPrefix(location, "/")
}
