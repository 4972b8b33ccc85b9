// Package sourcerepo brings sources into an image that is being built: Git
// repositories, tarballs and files.
//
// An element registers them in its files source-repository-NAME, a line for
// each:
//
//	NAME (git|tar|file|package) /DESTINATION LOCATION [REF]
//
// [Read] reads such a file, [Fetcher.Fetch] fetches what it says: first into a
// cache on the host, from there into the image's tree. Format, variables and
// cache are diskimage-builder's, so both may use one cache.
//
// Lines are expanded by bash, variables and commands in them too: they are as
// much the element's program as its hooks are. What comes over the network is
// not trusted: nothing of it is written outside the tree.
package sourcerepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/command"
)

// FilePrefix begins the names of the files in which elements register sources.
const FilePrefix = "source-repository-"

// Repository is one source.
type Repository struct {
	Name     string
	Type     string // git, tar, file or package
	Dest     string // absolute path in the image; empty for some packages
	Location string // URL, or whatever git takes
	// Ref is the commit, branch or tag of git ("*": all branches and tags), or
	// which part of a tarball: "." all, "*" what lies in its directories, or a
	// directory.
	Ref string

	File string // where it was registered
	Line int

	moved bool // Location is the user's own
}

// form is diskimage-builder's: a destination begins with a slash, everything
// after the type may be missing.
var form = regexp.MustCompile(`^([^ ]+) (git|tar|file|package) ?(/[^ ]+)? ?([^ ]+)? ?([^ ]*)$`)

// Environment holds the variables that change what is fetched.
type Environment map[string]string

// variable returns PREFIX_NAME, in which everything of a repository's name
// but letters and digits is "_".
func (env Environment) variable(prefix, name string) string {
	return env[prefix+"_"+notWord.ReplaceAllString(name, "_")]
}

var notWord = regexp.MustCompile(`[^A-Za-z0-9]`)

// reader is run by bash. It prints each line that is there after expansion,
// with its number, in records that end with a zero byte.
const reader = `set -eu -o pipefail
n=0
while read line || [ -n "$line" ]; do
    n=$((n + 1))
    set -f
    line=$(eval echo $line) || { printf '%d\0' $n; exit 1; }
    [ -z "$line" ] || printf '%d\0%s\0' $n "$line"
done <"$1"`

// Read reads one file. The environment is what the lines may use; DIB_REPOTYPE_*,
// DIB_REPOLOCATION_*, DIB_REPOREF_* and DIB_GITREPOBASE in it override what
// the file says. A line that cannot be understood is a bad input error.
func Read(ctx context.Context, file string, env Environment) ([]Repository, error) {
	var vars []string
	for k, v := range env {
		vars = append(vars, k+"="+v)
	}
	slices.Sort(vars)
	var out, said bytes.Buffer
	err := command.Exec{Args: []string{"bash", "-c", reader, "bash", file}, Env: vars, Stdout: &out, Log: &said}.Run(ctx)
	words := strings.Split(strings.TrimSuffix(out.String(), "\x00"), "\x00")
	if x, ok := errors.AsType[*command.ExitError](err); ok {
		line := words[len(words)-1]
		return nil, command.BadInput(fmt.Errorf("%s:%s: %s", file, line, lastLine(x.Tail)),
			"the line is expanded by bash; all variables in it must be set")
	}
	if err != nil {
		return nil, err
	}
	var repos []Repository
	for i := 0; i+1 < len(words); i += 2 {
		n, err := strconv.Atoi(words[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if strings.HasPrefix(words[i+1], "#") {
			continue
		}
		r, err := parse(file, n, words[i+1])
		if err != nil {
			return nil, err
		}
		r.override(env)
		repos = append(repos, *r)
	}
	return repos, nil
}

// plain is a line that bash expands to its words: nothing in it means anything
// to a shell, but for comments.
var plain = regexp.MustCompile(`^[A-Za-z0-9 \t_./:@%+,=*?#-]*$`)

// Check refuses what is wrong with the files of an element's directory
// whatever the environment is: lines without anything to expand that are no
// sources. Errors are those of [Read]. It runs nothing.
func Check(dir string) error {
	_, err := plainLines(dir)
	return err
}

// Unpinned names the sources of an element's directory that are to be fetched
// and are not pinned, as "git code https://example.net/code main". Lines that
// need a shell to be read are left out: they are held to the pins when they are
// fetched.
func Unpinned(dir string, env Environment, pins []Pin) []string {
	repos, err := plainLines(dir)
	if err != nil {
		return nil // Check says it
	}
	f := Fetcher{Env: env, Pins: append([]Pin{}, pins...)}
	var out []string
	for i := range repos {
		r := &repos[i]
		r.override(env)
		if r.Type == "package" || f.installType(r) != "source" {
			continue
		}
		if _, err := f.pin(r); err != nil {
			out = append(out, strings.TrimSpace(strings.Join([]string{r.Type, r.Name, Public(r.Location), r.Ref}, " ")))
		}
	}
	return out
}

// Names are those of the sources of an element's directory, whatever becomes of
// them. whole is false where a line needs a shell to be read.
func Names(dir string) (names []string, whole bool) {
	repos, _ := plainLines(dir)
	for _, r := range repos {
		names = append(names, r.Name)
	}
	files, _ := filepath.Glob(filepath.Join(dir, FilePrefix+"*"))
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || slices.ContainsFunc(strings.Split(string(text), "\n"), func(l string) bool { return !plain.MatchString(l) }) {
			return names, false
		}
	}
	return names, true
}

// plainLines reads the lines of an element's directory that have nothing to
// expand.
func plainLines(dir string) ([]Repository, error) {
	files, err := filepath.Glob(filepath.Join(dir, FilePrefix+"*"))
	if err != nil {
		return nil, err
	}
	var repos []Repository
	for _, file := range files {
		if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() || strings.HasSuffix(file, "~") {
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		n := 0
		for line := range strings.Lines(string(content)) {
			n++
			words := strings.Fields(line)
			if i := slices.IndexFunc(words, func(w string) bool { return w[0] == '#' }); i >= 0 {
				words = words[:i]
			}
			if len(words) == 0 || !plain.MatchString(strings.TrimSuffix(line, "\n")) {
				continue
			}
			r, err := parse(file, n, strings.Join(words, " "))
			if err != nil {
				return nil, err
			}
			repos = append(repos, *r)
		}
	}
	return repos, nil
}

// lastLine is what bash says, without where it says it.
func lastLine(tail []string) string {
	if len(tail) == 0 {
		return "cannot be expanded"
	}
	_, msg, ok := strings.Cut(tail[len(tail)-1], "line ")
	if _, m, found := strings.Cut(msg, ": "); ok && found {
		return m
	}
	return tail[len(tail)-1]
}

func parse(file string, n int, line string) (*Repository, error) {
	m := split(line)
	if m == nil {
		return nil, command.BadInput(fmt.Errorf("%s:%d: cannot parse %q as a source repository", file, n, line),
			"expected NAME (git|tar|file|package) /DESTINATION LOCATION [REF]")
	}
	r := &Repository{Name: m[1], Type: m[2], Dest: m[3], Location: m[4], Ref: m[5], File: file, Line: n}
	if r.Ref == "" {
		r.Ref = map[string]string{"git": "master", "tar": "*"}[r.Type]
	}
	return r, nil
}

// split matches a line against the form.
func split(line string) []string { return form.FindStringSubmatch(line) }

// override takes what the user says instead of what the element says.
func (r *Repository) override(env Environment) {
	for prefix, field := range map[string]*string{
		"DIB_REPOTYPE": &r.Type, "DIB_REPOLOCATION": &r.Location, "DIB_REPOREF": &r.Ref,
	} {
		if v := env.variable(prefix, r.Name); v != "" {
			*field = v
			r.moved = r.moved || field == &r.Location
		}
	}
	if base := env["DIB_GITREPOBASE"]; base != "" && r.Type == "git" && !r.moved {
		if m := hosted.FindStringSubmatch(r.Location); m != nil {
			r.Location = base + m[1]
		}
	}
}

// hosted is a URL with a host; what comes after the host, and after a user's
// home there, is the repository.
var hosted = regexp.MustCompile(`^[^:]+://[^/]+/(?:~[^/]+)?(.*)$`)

// errorf is an error about the line that registered r.
func (r *Repository) errorf(hint, format string, args ...any) error {
	return command.BadInput(fmt.Errorf("%s:%d: %s: %s", r.File, r.Line, r.Name, fmt.Sprintf(format, args...)), hint)
}

// check refuses what would be options of git, or lead out of the tree.
func (r *Repository) check() error {
	switch {
	case r.Type != "git" && r.Type != "tar" && r.Type != "file":
		return r.errorf("expected git, tar, file or package", "repository type %q is not known", r.Type)
	case r.Dest == "" || path.Clean("/"+r.Dest) == "/":
		return r.errorf("the third word is an absolute path in the image", "has no destination")
	case r.Location == "":
		return r.errorf("the fourth word says where it is", "has no location")
	case strings.HasPrefix(r.Location, "-"), strings.HasPrefix(r.Ref, "-"):
		return r.errorf("", "a location or reference cannot begin with a dash")
	case r.Type == "tar" && r.Ref != "*" && !filepath.IsLocal(r.Ref):
		return r.errorf("the fifth word is '.', '*' or a directory in the tarball", "%q is no part of a tarball", r.Ref)
	}
	return nil
}
