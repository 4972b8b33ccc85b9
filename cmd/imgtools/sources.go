package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/download"
	"goldsmith/internal/sourcerepo"
)

// cacheURL is cache-url. Status 44 says that the server has no such file.
func cacheURL(ctx context.Context, c *caller, name string, args []string) error {
	var g download.Getter
	var words []string
	for i, a := range args {
		switch {
		case a == "--":
			words = append(words, args[i+1:]...)
		case a == "-f":
			g.Force = true
			continue
		case a == "-h":
			return errHelp
		case len(a) > 1 && a[0] == '-':
			return fmt.Errorf("unsupported option %s", a)
		default:
			words = append(words, a)
			continue
		}
		break
	}
	if len(words) != 2 || words[0] == "" || words[1] == "" {
		return command.Hint(fmt.Errorf("expected a URL and a file, found %d words", len(words)),
			"usage: "+name+" [-f] URL FILE")
	}
	g.Retrying = func(err error) { fmt.Fprintf(c.Stderr, "%s: %v; trying again\n", name, err) }
	if c.env["DIB_OFFLINE"] != "" {
		g.Tries = 1 // what cannot be reached now cannot be in half a minute
	}
	out, err := c.getPinned(ctx, &g, words[0], words[1])
	if errors.Is(err, download.ErrNotFound) {
		return &exit{44, err}
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(c.Stdout, map[download.Outcome]string{
		download.First:     "Downloaded and cached for the first time",
		download.Forced:    "Downloaded and cached, having forced upstream caches to revalidate",
		download.Changed:   "Server copy has changed. Using server version",
		download.Unchanged: "Server copy has not changed. Using locally cached file",
		download.Empty:     "Ignoring empty file. Using locally cached file",
	}[out])
	return nil
}

// elementFile is the element's own file that a first-level file of the merged
// hooks tree is a copy of: errors name what can be mended, and what is there
// after the build. Without one it is the copy.
func (c *caller) elementFile(merged string) string {
	elements, err := told(c.env[imageElements])
	if err != nil {
		return merged
	}
	want, err := os.ReadFile(merged)
	if err != nil {
		return merged
	}
	for _, e := range elements {
		own := filepath.Join(e.Dir, filepath.Base(merged))
		if got, err := os.ReadFile(own); err == nil && bytes.Equal(got, want) {
			return own
		}
	}
	return merged
}

// sources is source-repositories.
func sources(ctx context.Context, c *caller, _ string, args []string) error {
	words, err := options{}.parse(args)
	if err != nil {
		return err
	}
	if len(words) > 0 {
		return usage("expected no arguments, found %q", words[0])
	}
	if c.env["NO_SOURCE_REPOSITORIES"] != "" {
		return nil
	}
	for _, name := range []string{"TMP_HOOKS_PATH", "TMP_MOUNT_PATH", "DIB_IMAGE_CACHE"} {
		if c.env[name] == "" {
			return command.Hint(fmt.Errorf("%s is not set", name), "source-repositories runs in a hook on the host")
		}
	}
	files, err := filepath.Glob(filepath.Join(c.env["TMP_HOOKS_PATH"], sourcerepo.FilePrefix+"*"))
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "~") })
	pins, err := c.pins()
	if err != nil {
		return err
	}
	f := sourcerepo.Fetcher{
		Pins: pins, Record: c.fetched,
		Root: c.env["TMP_MOUNT_PATH"], Cache: filepath.Join(c.env["DIB_IMAGE_CACHE"], "source-repositories"),
		Work: c.env["TMP_BUILD_DIR"], Offline: c.env["DIB_OFFLINE"] != "", Env: c.env, Log: c.Stderr,
	}
	if dir := c.env["DIB_MANIFEST_IMAGE_DIR"]; dir != "" {
		f.Manifest = filepath.Join(dir, "dib-manifest-git-"+filepath.Base(c.env["IMAGE_NAME"]))
	}
	for _, file := range files {
		if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		repos, err := sourcerepo.Read(ctx, c.elementFile(file), c.env)
		if err != nil {
			return err
		}
		if err := f.Fetch(ctx, repos); err != nil {
			return err
		}
	}
	return nil
}
