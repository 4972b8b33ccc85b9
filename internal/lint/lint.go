// Package lint holds elements to the form that builds rely on: what is a
// mistake in nearly every case and seen only in the middle of a build, or in
// the image.
//
// The rules are those of diskimage-builder's dib-lint, and its ways to leave
// some out work here: a line "# dib-lint: disable=RULE RULE..." in a file, and
// "ignore = RULE ..." in the section [dib-lint] of tox.ini. Rules about that
// project's own documentation and tracing are asked for by [Options.DIB].
// Beyond it, the files that say what packages and services an element wants
// are read as a build reads them.
package lint

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"goldsmith/internal/command"
	"goldsmith/internal/element"
	"goldsmith/internal/hook"
)

// Finding is one thing that is wrong.
type Finding struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // from 1
	Rule    string `json:"rule"`
	Message string `json:"message"`
}

func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Rule, f.Message)
}

// Options choose the rules.
type Options struct {
	// DIB adds the rules that only diskimage-builder's own elements keep to:
	// README.rst rather than README.md, "set -o pipefail" on a line of its own,
	// and DIB_DEBUG_TRACE in every script.
	DIB bool
	// Ignore names rules that are left out everywhere.
	Ignore []string
}

// Elements checks elements, which are directories, and returns what it finds,
// sorted by file and line. Files that Git ignores are left out.
func Elements(dirs []string, opts Options) ([]Finding, error) {
	l := &linter{opts: opts}
	for _, dir := range dirs {
		files, err := list(dir)
		if err != nil {
			return nil, err
		}
		l.element(dir)
		for _, f := range files {
			if err := l.file(f); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(l.found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.File, b.File), a.Line-b.Line, strings.Compare(a.Rule, b.Rule))
	})
	return l.found, nil
}

// Ignored reads which rules tox.ini in dir, if there is one, leaves out.
func Ignored(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, "tox.ini"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var rules []string
	here, value := false, false
	for line := range strings.Lines(string(b)) {
		text := strings.TrimSpace(line)
		switch name, rest, ok := strings.Cut(text, "="); {
		case text == "" || text[0] == '#' || text[0] == ';':
		case text[0] == '[':
			here, value = text == "[dib-lint]", false
		case here && value && strings.TrimLeft(line, " \t") != line: // the value goes on
			rules = append(rules, strings.Fields(text)...)
		default:
			value = here && ok && strings.TrimSpace(name) == "ignore"
			if value {
				rules = append(rules, strings.Fields(rest)...)
			}
		}
	}
	return rules, nil
}

// list returns the files of an element.
func list(dir string) ([]string, error) {
	var files []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "__pycache__" || d.Name() == ".git"):
			return fs.SkipDir
		case d.Type().IsRegular() && !strings.HasSuffix(p, ".pyc"):
			files = append(files, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return notIgnored(dir, files), nil
}

// notIgnored leaves out what Git ignores. Without Git, or outside of a
// repository, nothing is.
func notIgnored(dir string, files []string) []string {
	var names bytes.Buffer
	for _, f := range files {
		rel, err := filepath.Rel(dir, f)
		if err != nil {
			return files
		}
		names.WriteString(rel + "\x00")
	}
	cmd := exec.Command("git", "-C", dir, "check-ignore", "-z", "--stdin")
	cmd.Stdin = &names
	out, err := cmd.Output() // status 1: none is ignored
	if err != nil {
		return files
	}
	ignored := map[string]bool{}
	for name := range strings.SplitSeq(string(out), "\x00") {
		ignored[filepath.Join(dir, name)] = true
	}
	return slices.DeleteFunc(files, func(f string) bool { return ignored[f] })
}

type linter struct {
	opts  Options
	found []Finding
}

func (l *linter) report(file string, line int, rule, format string, args ...any) {
	if slices.Contains(l.opts.Ignore, rule) {
		return
	}
	l.found = append(l.found, Finding{file, max(line, 1), rule, fmt.Sprintf(format, args...)})
}

// element checks an element as a whole.
func (l *linter) element(dir string) {
	names := []string{"README.rst"}
	if !l.opts.DIB {
		names = append(names, "README.md")
	}
	if !slices.ContainsFunc(names, func(n string) bool {
		fi, err := os.Stat(filepath.Join(dir, n))
		return err == nil && fi.Mode().IsRegular()
	}) {
		l.report(dir, 1, "readme", "no %s says what the element is for", strings.Join(names, " or "))
	}
}

// maxFile bounds what is read of one file; no script is as long.
const maxFile = 4 << 20

// file checks one file.
func (l *linter) file(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	if fi.Size() > maxFile {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	s := &source{linter: l, path: path, text: string(content), executable: fi.Mode()&0o111 != 0}
	s.lines = strings.Split(strings.TrimSuffix(s.text, "\n"), "\n")
	s.first = s.lines[0]
	s.disabled = disabled(s.lines)
	s.check()
	return nil
}

// source is one file.
type source struct {
	*linter
	path, text, first string
	lines             []string
	executable        bool
	disabled          []string // rules that the file leaves out
}

var disable = regexp.MustCompile(`^# dib-lint: disable=(.*)$`)

func disabled(lines []string) []string {
	var rules []string
	for _, l := range lines {
		if m := disable.FindStringSubmatch(l); m != nil {
			rules = append(rules, strings.Fields(m[1])...)
		}
	}
	return rules
}

func (s *source) report(line int, rule, format string, args ...any) {
	if !slices.Contains(s.disabled, rule) {
		s.linter.report(s.path, line, rule, format, args...)
	}
}

// line is the number of the first line that matches, or 0.
func (s *source) line(re *regexp.Regexp) int {
	return 1 + slices.IndexFunc(s.lines, re.MatchString)
}

// check applies all rules to the file.
func (s *source) check() {
	name := filepath.Base(s.path)
	binary := strings.Contains(s.text, "\x00")
	if s.executable && hooks.MatchString(filepath.ToSlash(filepath.Dir(s.path))) && !hook.Name.MatchString(name) {
		s.report(1, "hookname", "is never run: a hook's name has letters, digits, - and _ only")
	}
	switch filepath.Ext(name) {
	case ".yaml":
		s.data(name)
	case ".md":
		if s.opts.DIB {
			s.report(1, "mddocs", "documentation is written in README.rst")
		}
	case ".rst", ".py":
	default:
		if !binary {
			s.script(name)
		}
		s.data(name)
	}
	if !binary && (s.executable || filepath.Ext(name) == ".rst" || filepath.Ext(name) == ".md") {
		s.layout()
	}
}

// located is how readers of elements' files begin their messages.
var located = regexp.MustCompile(`^.*?:(\d+): (.*)$`)

// data reads the files that have a format.
func (s *source) data(name string) {
	dir := filepath.Dir(s.path)
	e := &element.Element{Name: filepath.Base(dir), Dir: dir}
	rule, warnings, err := read(e, name, s.path, s.executable)
	for _, w := range append(warnings, message(err)...) {
		line, text := 1, w
		if m := located.FindStringSubmatch(w); m != nil {
			line, _ = strconv.Atoi(m[1])
			text = m[2]
		}
		s.report(line, rule, "%s", strings.ReplaceAll(text, s.path+": ", ""))
	}
}

func message(err error) []string {
	if err == nil {
		return nil
	}
	text := err.Error()
	if hint := command.HintOf(err); hint != "" {
		text += " (" + hint + ")"
	}
	return []string{text}
}
